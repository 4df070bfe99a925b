"`run_study.ipynb` itself, through papermill, on digits."
import subprocess
from dataclasses import fields

import nbformat
import pytest
from conftest import ROOT
from test_run_experiment import PAPERMILL

from al_cifar.forms.paper_study import PaperStudy
from al_cifar.study import load_results, status

TEMPLATE = ROOT/"nbs/run_study.ipynb"


def run(out, **parameters):
    "Exit code and everything a terminal would show; `parameters` are YAML."
    given = dict(epsilons="[0, 0.1]", stochastic_up_to=.1, replications=2, initial=20, budget=40, batch=20, epochs=1,
                 strategies="[random, kmeans]", dataset="digits", out_dir=out/"study")
    text = "\n".join(f"{k}: {v}" for k, v in {**given, **parameters}.items())
    done = subprocess.run([PAPERMILL, TEMPLATE, out/"out.ipynb", "-y", text], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, cwd=out, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_form_and_notebook_agree():
    "The parameters cell has the names and defaults of `PaperStudy`, in its order."
    (cell,) = [c for c in nbformat.read(TEMPLATE, 4).cells if "parameters" in c.metadata.get("tags", ())]
    defaults = {}
    exec(cell.source, defaults)
    defaults = {k: tuple(v) if isinstance(v, list) else v for k, v in defaults.items() if k != "__builtins__"}
    assert list(defaults.items()) == [(f.name, f.default) for f in fields(PaperStudy)]


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


@pytest.mark.parametrize("bad,message", [
    (dict(epsilon=.1), "unknown parameter 'epsilon'; there are: epsilons"),
    (dict(epsilons="[0, 1.5]"), "epsilon must be a number in [0, 1], got 1.5"),
    (dict(budget=1298), "budget must be at most 1297")])
def test_nonsense_ends_before_any_work(tmp_path, bad, message):
    code, seen = run(tmp_path, **bad)
    assert code != 0 and message in seen and "Traceback" not in seen and not (tmp_path/"study").exists(), seen
