"What can be said to an experiment: each value is taken or refused in one short sentence that names its parameter."
import re
import sys
import time
from pathlib import Path

import pytest

from al_cifar.forms.cli import main
from al_cifar.forms.errors import ExperimentError
from al_cifar.forms.experiment import prepare, run_experiment
from al_cifar.forms.form import EXPERIMENT, STUDY
from al_cifar.forms.race import RACE
from al_cifar.loop.config import COMPONENTS
from al_cifar.study.records import read_run
from al_cifar.study.results import load_results

FORMS = pytest.mark.parametrize("form", (EXPERIMENT, STUDY, RACE), ids=("experiment", "study", "race"))


def answers_of(form, said):
    "What the form says of an experiment; that of a race says its rule, too."
    found = form.read(said)
    return found[0] if form is RACE else found


@FORMS
@pytest.mark.parametrize("name", ("out_dir", "data_root"))
def test_home_is_expanded(form, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(getattr(answers_of(form, {name: "~/here"}), name)) == tmp_path/"here"


WRONG = [(name, value) for name in ("out_dir", "data_root") for value in ("", 5, True, ["a"], 1.5)]
WRONG += [("replications", 10**7), ("replications", 10**400), ("evaluators", 10**5000), ("replications", True), ("replications", float("nan")),
          ("evaluators", 10**400), ("evaluators", None), ("lr", float("inf")), ("lr", True), ("dataset", ""),
          ("dataset", 5), ("strategies", None), ("strategies", 5), ("strategies", [5])]


@FORMS
@pytest.mark.parametrize("name, value", WRONG, ids=lambda x: type(x).__name__ if isinstance(x, int) else repr(x)[:20])
def test_wrong_value_is_named(form, name, value):
    if form is RACE and name == "replications": name = "most"  # what a race calls them
    with pytest.raises(ExperimentError) as error: form.read({name: value})
    text = str(error.value)
    assert name in text
    assert len(text) < 200


def test_folder_without_data_root():
    with pytest.raises(SystemExit, match="data_root"): main(["study", "--dataset", "folder", "--dry_run"])


def test_command_without_arguments_explains_itself(monkeypatch, capsys):
    import al_cifar.forms.command as command
    monkeypatch.setattr(command, "prepare", lambda *_: pytest.fail("it would have run the whole grid"))
    with pytest.raises(SystemExit) as end: main(["study"])
    assert not end.value.code
    assert "--replications" in capsys.readouterr().out


MINE = '''"A strategy and an annotator of one's own, as they stand in a file."
from dataclasses import dataclass

import numpy as np

from al_cifar.oracle.annotator import ORACLES
from al_cifar.oracle.uniform import UniformNoise
from al_cifar.strategies.contract import register

def last(scores, k): return scores.argsort()[-k:]

@register("my_thing")
def my_thing(view, k, g, *, shift: int = 0): return last(view.priority + shift, k)

@ORACLES.register("my_people")
@dataclass(frozen=True)
class People(UniformNoise): pass
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    "A file of one's own components; what it registered is forgotten afterwards."
    for register in COMPONENTS.values(): monkeypatch.setattr(register, "components", dict(register.components))
    before = set(sys.modules)
    path = tmp_path/"my_strategies.py"
    path.write_text(MINE)
    yield path
    for name in set(sys.modules) - before: del sys.modules[name]


@FORMS
def test_plugins_are_imported(form, mine):
    answers = answers_of(form, dict(plugins=str(mine), strategies="random,my_thing(shift=3)", oracle="my_people"))
    assert answers.strategies == ("random", "my_thing(shift=3)")
    assert "plugins" not in answers.config(answers.conditions[0]).__dict__


def test_plugin_that_was_edited(mine):
    EXPERIMENT.read(dict(plugins=[mine]))
    mine.write_text(MINE.replace("my_thing", "my_other_thing"))
    assert EXPERIMENT.read(dict(plugins=[mine], strategies="my_other_thing")).strategies == ("my_other_thing",)


def test_plugin_by_module_name(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine.parent)
    for _ in range(2): EXPERIMENT.read(dict(plugins="my_strategies", strategies="my_thing"))


BAD_PLUGINS = [("", "registers nothing"), ("x = y", "line 1: NameError: name 'y' is not defined"),
               ("def", "SyntaxError: "), ("import sys; sys.exit(3)", "SystemExit: 3"),
               (MINE.replace("my_thing", "random"), "name 'random' is the package's own strategy"),
               (MINE + "\n1/0", "ZeroDivisionError")]


@pytest.mark.parametrize("code, message", BAD_PLUGINS)
def test_bad_plugin_is_named(mine, code, message):
    mine.write_text(code)
    there = {name: dict(register.components) for name, register in COMPONENTS.items()}
    with pytest.raises(ExperimentError, match=re.escape(message)) as error: EXPERIMENT.read(dict(plugins=str(mine)))
    assert "my_strategies.py" in str(error.value) and "\n" not in str(error.value)
    assert {name: dict(register.components) for name, register in COMPONENTS.items()} == there
    assert "my_strategies" not in sys.modules


@pytest.mark.parametrize("plugins", ("nowhere/mine.py", "no_such_module", 5, True, ["a.py", None], "", "random.py", "al_cifar.py"))
def test_plugins_that_are_none(plugins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("random.py", "al_cifar.py"): (tmp_path/name).write_text(MINE)
    with pytest.raises(ExperimentError, match="plugin"): EXPERIMENT.read(dict(plugins=plugins))


def test_plugins_reach_two_workers(mine, tmp_path):
    said = dict(plugins=str(mine), strategies="my_thing", dataset="digits", oracle="my_people", epsilon=.1, initial=20,
                budget=40, batch=20, epochs=1, workers=2, replications=2, out_dir=str(tmp_path/"study"))
    results = load_results(run_experiment(prepare(EXPERIMENT, said)))
    assert len(results) == 4 and set(results.strategy) == {"my_thing"}
    header = read_run(min((tmp_path/"study").glob("*.jsonl")))[0]
    assert "plugins" not in header["config"] and header["sources"]


@FORMS
def test_unknown_strategy_lists_families(form, mine):
    with pytest.raises(ExperimentError) as error: form.read(dict(plugins=str(mine), strategies="random,margn"))
    lines = str(error.value).splitlines()
    assert "strategies" in lines[0] or "strategy" in lines[0] and "'margn'" in lines[0]
    assert "  uncertainty: least_confidence, margin, entropy" in lines
    assert "  yours: my_thing(shift=0)" in lines
    assert "plugins my_strategies.py" in lines[-1]


MISMATCHED = [(dict(strategies="random,committee"), "committee needs 2 members or more, got 1: set evaluators to at least 2"),
              (dict(strategies="power(score='committee(size=4)')", evaluators=3), "committee needs 4 members or more, got 3"),
              (dict(strategies="mixture(first='committee')"), "committee needs 2 members or more, got 1"),
              (dict(oracle="fatigue", epsilon=.1), "epsilon must be 0 for fatigue, an annotator without a level, got 0.1")]


@pytest.mark.parametrize("said, message", MISMATCHED)
def test_what_does_not_fit_is_refused_at_the_start(said, message):
    with pytest.raises(ExperimentError, match=re.escape(message)): EXPERIMENT.read(said)


def test_what_fits_is_taken():
    EXPERIMENT.read(dict(strategies="committee,power(score='committee(size=3)')", evaluators=3))
    EXPERIMENT.read(dict(oracle="fatigue"))


SIZES = ("budget", "initial", "batch", "epochs", "train_batch", "evaluators", "candidates", "workers")
HUGE = [dict(evaluators=10**400), dict(replications=10_000, strategies="random", epsilons="0,.1,.2,.3,.4,.5,.6,.7,.8,.9"),
        *({name: 10**9} for name in ("budget", "initial", "evaluators")), *({name: 10**300} for name in SIZES)]


@pytest.mark.parametrize("said", HUGE, ids=lambda said: f"{[*said][0]}-{len(str([*said.values()][0]))}")
def test_huge_numbers_are_refused_at_once(said):
    start = time.monotonic()
    words = [f"--{name}={value}" for name, value in said.items()]
    with pytest.raises(SystemExit) as error: main(["study", *words, "--dataset=digits", "--dry_run"])
    assert next(iter(said)) in str(error.value) and len(str(error.value)) < 300
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", sorted(set(SIZES) - {"budget", "initial", "evaluators"}))
def test_large_numbers_cost_nothing_to_plan(name, capsys):
    start = time.monotonic()
    main(["study", f"--{name}={10**9}", "--dataset=digits", "--dry_run"])
    assert time.monotonic() - start < 10
