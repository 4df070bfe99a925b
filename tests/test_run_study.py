"`run_study.ipynb` itself, through papermill, on digits."
import subprocess

import pytest
from conftest import PAPERMILL, ROOT, check_template

from al_cifar.forms.form import STUDY
from al_cifar.study import load_results, read_run, status

TEMPLATE = ROOT/"nbs/run_study.ipynb"


def run(out, **parameters):
    "Exit code and everything a terminal would show; `parameters` are YAML."
    given = dict(epsilons="[0, 0.1]", stochastic_up_to=.1, replications=2, initial=20, budget=40, batch=20, epochs=1,
                 strategies="[random, kmeans]", dataset="digits", out_dir=out/"study")
    text = "\n".join(f"{k}: {v}" for k, v in {**given, **parameters}.items())
    done = subprocess.run([PAPERMILL, TEMPLATE, out/"out.ipynb", "-y", text], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, cwd=out, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_form_and_notebook_agree(): check_template(TEMPLATE, STUDY)


def test_whole_grid_and_again(tmp_path):
    code, seen = run(tmp_path)
    assert code == 0, seen
    assert "12/12 runs" in seen and "Condition U[0,0.1]" in seen and "minus random" in seen
    assert status(tmp_path/"study")["done"] == 12
    results = load_results(tmp_path/"study")
    assert set(results.condition) == {"0.0", "0.1", "U[0,0.1]"} and len(results) == 12*2
    assert load_results(tmp_path/"study/study.zip").equals(results)
    code, seen = run(tmp_path, replications=3)
    assert code == 0 and "18 runs, 6 of them still to do" in seen and len(load_results(tmp_path/"study")) == 18*2, seen


def test_yaml_says_any_setting(tmp_path):
    "YAML reads 3e-4 as a text, which the form understands."
    said = dict(lr="3e-4", averaging="tail", independent="[noise]", strategies="[\"kmeans(assign='within')\"]",
                epsilons="0.1", stochastic_up_to="null")
    code, seen = run(tmp_path, **said)
    assert code == 0, seen
    heads = [read_run(path)[0]["config"] for path in (tmp_path/"study").glob("*.jsonl")]
    assert len(heads) == 2
    wanted = dict(lr=3e-4, averaging="tail", independent=["noise"], strategy="kmeans(assign='within')", epsilon=.1)
    for head in heads: assert {name: head[name] for name in wanted} == wanted


@pytest.mark.parametrize("bad,message", [
    (dict(epsilon=.1), "unknown parameter 'epsilon'; there are: epsilons"),
    (dict(epsilons="[0, 1.5]"), "epsilon must be a number in [0, 1], got 1.5"),
    (dict(budget=1298), "budget must be at most 1297")])
def test_nonsense_ends_before_any_work(tmp_path, bad, message):
    code, seen = run(tmp_path, **bad)
    assert code != 0 and message in seen and "Traceback" not in seen and not (tmp_path/"study").exists(), seen
