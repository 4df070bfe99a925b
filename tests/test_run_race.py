"`run_race.ipynb` itself, through papermill, on digits."
import subprocess

import pytest
from conftest import PAPERMILL, ROOT, check_template

from al_cifar.forms.race import RACE
from al_cifar.study import status

TEMPLATE = ROOT/"nbs/run_race.ipynb"


def run(out, *options):
    "Exit code and everything a terminal would show."
    given = "dataset=digits strategies=random,kmeans initial=20 budget=40 batch=20 epochs=1 first=3 most=4 workers=1"
    words = [word for pair in given.split() for word in ("-p", *pair.split("=", 1))]
    command = [PAPERMILL, TEMPLATE, out/"out.ipynb", *words, "-p", "out_dir", out/"race", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=out, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_form_and_notebook_agree(): check_template(TEMPLATE, RACE)


def test_a_race(tmp_path):
    "It ends, undecided or not, leaves its files, and says how it went."
    code, seen = run(tmp_path, "-p", "delta", "3")
    assert code == 0, seen
    assert "within 3 AULC (15 points of mean accuracy)" in seen and "replications; dropped (after)" in seen
    assert status(tmp_path/"race")["done"] in (6, 8)
    for name in ("race.csv", "race.txt", "race.svg", "race.png"): assert (tmp_path/"race"/name).exists(), name


@pytest.mark.parametrize("options,message", [
    (("-p", "delta", "-1"), "delta must be None or a number above 0, got -1"),
    (("-p", "replications", "5"), "unknown parameter 'replications'; there are: delta, alpha, first, most"),
    (("-p", "strategies", "kmeans"), "strategies must be two or more")])
def test_nonsense_ends_before_any_work(tmp_path, options, message):
    code, seen = run(tmp_path, *options)
    assert code != 0 and message in seen and "Traceback" not in seen and not (tmp_path/"race").exists(), seen
