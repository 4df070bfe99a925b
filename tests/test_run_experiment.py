"""`run_experiment.ipynb` itself, through papermill.

On digits, on a folder of real images, interrupted, and asked for nonsense."""
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import nbformat
import psutil  # comes with ipykernel
import pytest
from conftest import PAPERMILL, ROOT, check_template
from PIL import Image
from sklearn.datasets import load_sample_images

from al_cifar.forms.form import EXPERIMENT
from al_cifar.study import load_results, read_run

TEMPLATE = ROOT/"nbs/run_experiment.ipynb"
SMALL = dict(epsilon=.1, replications=2, initial=20, budget=60, batch=20, epochs=2)


def command(out, **parameters):
    "A papermill command line with SMALL and other parameters; the executed notebook goes beside the results."
    given = {**SMALL, "out_dir": out/"study", **parameters}
    return [PAPERMILL, str(TEMPLATE), str(out/"out.ipynb"), *(str(a) for k, v in given.items() for a in ("-p", k, v))]


def run(out, **parameters):
    "Exit code and everything a terminal would show."
    done = subprocess.run(command(out, **parameters), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          cwd=out, timeout=300)
    return done.returncode, done.stdout + done.stderr


def outcomes(folder):
    "Records of every run in `folder` without their timings."
    return {path.name: [{k: v for k, v in r.items() if k != "seconds"} for r in read_run(path)[1]]
            for path in folder.glob("*.jsonl")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "A small experiment on digits, as a user without data or network gets it."
    out = tmp_path_factory.mktemp("undisturbed")
    return out, *run(out)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "A folder of 32x32 patches of scikit-learn's two photographs, a class each."
    root = tmp_path_factory.mktemp("photos")
    for name, photo in zip(("temple", "flower"), load_sample_images().images):
        for i in range(90):
            path = root/("train" if i < 60 else "test")/name/f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo).crop((32*(i % 19), 32*(i//19), 32*(i % 19) + 32, 32*(i//19) + 32)).save(path)
    return root


def test_form_and_notebook_agree(): check_template(TEMPLATE, EXPERIMENT)


def test_digits_end_to_end(undisturbed):
    out, code, seen = undisturbed
    assert code == 0, seen
    assert "THESE ARE DIGITS, NOT CIFAR-10" in seen and "round" in seen and "100%" in seen
    assert "With 2 paired replications" in seen and "minus random" in seen
    results = load_results(out/"study")
    assert len(results) == 3*2*3 and set(results.dataset) == {"digits"} and set(results.condition) == {"0.1"}
    for name in ("results.csv", "learning_curves.svg", "learning_curves.png", "summary.txt"):
        assert (out/"study"/name).stat().st_size > 100, name
    executed = nbformat.read(out/"out.ipynb", 4)
    assert any("image/png" in o.get("data", {}) for c in executed.cells for o in c.get("outputs", []))


def test_again_resumes(undisturbed):
    out, *_ = undisturbed
    before = {path: path.read_bytes() for path in (out/"study").glob("*.jsonl")}
    code, seen = run(out)
    assert code == 0 and "All 6 runs are there already" in seen
    assert {path: path.read_bytes() for path in (out/"study").glob("*.jsonl")} == before


def test_killed_and_resumed(undisturbed, tmp_path):
    "The kernel killed, twice, in the middle of a round; then finished: the same outcomes."
    for rounds in (1, 7):
        process = subprocess.Popen(command(tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, cwd=tmp_path)
        while process.poll() is None and sum(map(len, outcomes(tmp_path/"study").values())) < rounds: time.sleep(.02)
        assert process.poll() is None, "it was over before it could be killed"
        (kernel,) = psutil.Process(process.pid).children()
        workers = kernel.children()
        kernel.kill()
        process.kill()
        process.wait()
        assert not psutil.wait_procs(workers, timeout=60)[1], "workers outlive the kernel"
    done = sum(map(len, outcomes(tmp_path/"study").values()))
    assert 1 <= done < 18
    code, seen = run(tmp_path)
    assert code == 0, seen
    assert outcomes(tmp_path/"study") == outcomes(undisturbed[0]/"study")


def test_folder_of_images(photos, tmp_path):
    code, seen = run(tmp_path, dataset="folder", data_root=photos, epsilon=.2, strategies="random,diversity",
                     workers=1, epochs=6)
    assert code == 0, seen
    assert "DIGITS" not in seen
    results = load_results(tmp_path/"study")
    assert set(results.dataset) == {"folder"} and set(results.strategy) == {"random", "kmeans"}
    assert results[results.n_labels == 60].accuracy.mean() > .6  # chance is one half


def test_dry_run(tmp_path):
    code, seen = run(tmp_path, dry_run=True)
    assert code == 0 and "6 runs, 6 of them still to do: about" in seen and "kB in" in seen
    assert not (tmp_path/"study").exists() and "| parameter |" not in seen
    outputs = [o for c in nbformat.read(tmp_path/"out.ipynb", 4).cells for o in c.get("outputs", ())]
    assert any("`weight_decay`" in o.get("data", {}).get("text/markdown", "") for o in outputs), "no table of parameters"


def test_every_setting_is_a_parameter(tmp_path):
    "Also those that the parameters cell does not list."
    said = dict(lr="3e-4", batch_norm="labelled", candidates=500, crop_fill="grey", model="simple_cnn(norm='group')",
                oracle="uniform()", independent="noise,query", strategies="random,kmeans(assign='within')", workers=1,
                budget=40, epochs=1)
    code, seen = run(tmp_path, **said)
    assert code == 0, seen
    heads = [read_run(path)[0]["config"] for path in (tmp_path/"study").glob("*.jsonl")]
    assert {head["strategy"] for head in heads} == {"random", "kmeans(assign='within')"}
    wanted = dict(lr=3e-4, batch_norm="labelled", candidates=500, crop_fill="grey", model=said["model"], oracle="uniform",
                  independent=["noise", "query"], budget=40, epochs=1)
    for head in heads: assert {name: head[name] for name in wanted} == wanted
    assert len(load_results(tmp_path/"study")) == 2*2*2


@pytest.mark.parametrize("bad,message", [
    (dict(epsilonn=.1), "unknown parameter 'epsilonn'; there are: epsilon, stochastic"),
    (dict(epsilon=1.5), "epsilon must be a number in [0, 1], got 1.5"),
    (dict(strategies="margn"), "strategy must be one of these, got 'margn'"),
    (dict(lr="fast"), "lr must be a number above 0, got 'fast'"),
    (dict(batchnorm="labelled"), "did you mean 'batch_norm'?"),
    (dict(strategy="random"), "strategies lists those to compare"),
    (dict(dataset="digits", budget=1298), "budget must be at most 1297, the images of digits, got 1298"),
    (dict(dataset="folder", data_root="nowhere"), "nowhere")])
def test_nonsense_ends_before_any_work(tmp_path, bad, message):
    code, seen = run(tmp_path, **bad)
    assert code != 0 and re.findall("^Error: .*", seen, re.M) and message in seen, seen
    assert "Traceback" not in seen and not (tmp_path/"study").exists()


def test_corrupt_image_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path/"photos")
    (tmp_path/"photos/train/flower/00007.png").write_bytes(b"no picture")
    code, seen = run(tmp_path, dataset="folder", data_root=tmp_path/"photos")
    assert code != 0 and "00007.png" in seen and "Traceback" not in seen, seen


def test_damaged_run_file_is_named(undisturbed, tmp_path):
    (tmp_path/"study").mkdir()
    for path in (undisturbed[0]/"study").glob("*.jsonl"): (tmp_path/"study"/path.name).write_bytes(path.read_bytes())
    path = min((tmp_path/"study").glob("*.jsonl"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]) + "\n")
    code, seen = run(tmp_path)
    assert code != 0 and f"{path.name}, line 2" in seen and "Traceback" not in seen, seen


def test_parameters_reach_the_config(undisturbed):
    head, _ = read_run(min((undisturbed[0]/"study").glob("*.jsonl")))
    assert {k: head["config"][k] for k in ("epsilon", "initial", "budget", "batch", "epochs")} == {
        k: SMALL[k] for k in ("epsilon", "initial", "budget", "batch", "epochs")}
    assert json.dumps(head["versions"])
