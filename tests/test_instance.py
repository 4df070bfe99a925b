"Annotators for whom some images are harder: rates with the right mean, and difficulties that are fair."
import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import ROOT

from al_cifar.data import HumanLabels, load_data
from al_cifar.data.images import ImageData
from al_cifar.loop import Config, difficulty, simulate
from al_cifar.oracle import ORACLES, Instance, UniformNoise, check_oracle
from al_cifar.oracle.instance import solve_rates
from al_cifar.study import load_results, run_study


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "A cache of its own, on disk and in the process."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    difficulty._margin.cache_clear()
    yield tmp_path/"cache"/"al_cifar"
    difficulty._margin.cache_clear()


# Rates

def bisected(f, epsilon, most):
    "The same rates by halving an interval."
    low, high = 0., most/f[f > 0].min()
    for _ in range(200):
        c = (low + high)/2
        if np.minimum(most, c*f).mean() < epsilon: low = c
        else: high = c
    return np.minimum(most, high*f)


SHAPES = {"spread": lambda g: g.exponential(size=999)**3, "ties": lambda g: g.integers(1, 4, 999).astype(float),
          "zeros": lambda g: g.random(999)*(g.random(999) < .6), "one": lambda g: np.eye(1, 999)[0] + 1e-9,
          "equal": lambda g: np.ones(999), "huge": lambda g: g.random(999)*1e300, "tiny": lambda g: g.random(999)*1e-300}


@pytest.mark.parametrize("most", [.3, .9, 1.])
@pytest.mark.parametrize("shape", SHAPES)
def test_rates_have_the_mean_and_only_grow(shape, most):
    f, before = SHAPES[shape](np.random.default_rng(0)), 0
    reachable = most*(f > 0).mean()
    for share in (0, 1e-6, .01, .1, .3, .5, .8, .99, 1):
        epsilon = share*reachable
        rates = solve_rates(f, epsilon, most)
        assert abs(rates.mean() - epsilon) < 1e-9
        assert (rates >= 0).all() and (rates <= most).all() and (rates >= before).all()
        if share: assert abs(rates - bisected(f, epsilon, most)).max() < 1e-9
        before = rates
    with pytest.raises(ValueError, match="epsilon must be at most"): solve_rates(f, reachable + 1e-6, most)


# By people

def crowd(n=2000):
    "Data about whose images three people were wrong with probability .1 to .4; and how many were."
    g, true = np.random.default_rng(0), np.arange(n) % 10
    hard = np.linspace(.1, .4, n)
    err = lambda: np.where(g.random(n) < hard, (true + g.integers(1, 10, n)) % 10, true)
    sets = {"clean": true, "random1": err(), "random2": err(), "random3": err()}
    digits = load_data("digits")
    x = digits.x_train[:1].expand(n, -1, -1, -1)
    data = ImageData("crowd", x, torch.tensor(true), digits.x_test, digits.y_test, digits.classes)
    vars(data)["human_labels"] = HumanLabels(sets, np.arange(n))
    return data, sum(sets[name] != true for name in ("random1", "random2", "random3"))


def test_disagreement_over_many_answers():
    data, wrong = crowd()
    n, y = len(wrong), data.y_train.numpy()
    annotator = Instance(.18, difficulty="disagreement").on(y, data)
    d = np.array([.125, .375, .625, .875])
    f = .9*d/d[wrong].mean() + .1
    expected = .18*f  # no image reaches the cap
    assert expected.max() < .9
    g, worlds, erred = np.random.default_rng(1), 200, np.zeros(n)  # 400,000 answers
    for _ in range(worlds): erred += annotator.answer(np.arange(n), *g.random((2, n)), np.arange(n)) != y
    for k in range(4):
        answers = worlds*(wrong == k).sum()
        share, error = erred[wrong == k].sum()/answers, (expected[k]*(1 - expected[k])/answers)**.5
        assert abs(share - expected[k]) < 4*error, k
    assert abs(erred.sum()/(worlds*n) - .18) < 4*(.18*.82/(worlds*n))**.5
    check_oracle("instance(difficulty='disagreement')", data=data)


def test_levels_are_nested_and_wrong_classes_uniform():
    data, _ = crowd()
    n, y = len(data.y_train), data.y_train.numpy()
    u, v = np.random.default_rng(2).random((2, n))
    everyone = np.arange(n)
    given = [Instance(e, difficulty="disagreement").on(y, data).answer(everyone, u, v, everyone)
             for e in np.linspace(0, .9, 40)]
    for low, high in zip(given, given[1:]): assert (low == high)[low != y].all()
    always = UniformNoise(1.).on(y).answer(everyone, u, v, everyone)
    for labels in given: assert (labels == always)[labels != y].all()
    assert (given[0] == y).all() and .1 > (given[-1] == y).mean() - .1 > -.03


# By a reference model

def test_no_image_is_scored_by_a_model_that_saw_it(cache):
    digits = load_data("digits")
    learned, scored = [], []
    fit, infer = difficulty.fit, difficulty.infer
    def note_fit(trainings, data, x):
        run = trainings[0].run
        assert (run.labels[run.labelled] == data.y_train.numpy()[run.labelled]).all()
        learned.append(set(run.labelled.tolist()))
        return fit(trainings, data, x)
    def note_infer(model, x, rows):
        assert x is digits.x_train
        scored.append(set(rows.tolist()))
        return infer(model, x, rows)
    with patch.multiple(difficulty, fit=note_fit, infer=note_infer):
        d = difficulty.margin(digits, share=.2, folds=3, epochs=1)
    n = len(digits.y_train)
    assert len(learned) == len(scored) == 3
    for saw, judged in zip(learned, scored): assert not saw & judged
    assert set().union(*scored) == set(range(n)) and sum(map(len, scored)) == n
    used = set().union(*learned)
    assert abs(len(used) - .2*n) < 1
    assert d.shape == (n,) and (d >= 0).all() and (d <= 1).all()
    assert len(list(cache.iterdir())) == 1


def test_the_cache_is_for_this_data_and_these_parameters(cache):
    digits = load_data("digits")
    half = replace(digits, x_train=digits.x_train[::2].clone(), y_train=digits.y_train[::2].clone())
    for data in (digits, half):
        for given in ({}, {"seed": 1}, {"folds": 3}, {"share": .3}, {"epochs": 2}):
            difficulty.margin(data, **{"epochs": 1, **given})
    assert len(list(cache.iterdir())) == 10
    before = difficulty.margin(digits, epochs=1)
    difficulty._margin.cache_clear()
    with patch.object(difficulty, "cross_fitted", side_effect=AssertionError("computed again")):
        assert (difficulty.margin(digits, epochs=1) == before).all()
    for file in cache.iterdir(): file.write_bytes(file.read_bytes()[:100])
    difficulty._margin.cache_clear()
    assert (difficulty.margin(digits, epochs=1) == before).all()


# In runs

MARGIN = "instance(difficulty='margin(epochs=1)')"


def outcome(record): return {name: value for name, value in record.items() if name != "seconds"}


def test_runs_resume_to_the_bit(cache):
    digits = load_data("digits")
    config = Config(dataset="digits", oracle=MARGIN, epsilon=.3, initial=20, budget=80, batch=20, epochs=2)
    records = list(simulate(config, digits))
    assert sum(record["queried_wrong"] or 0 for record in records[:-1]) > 0
    for done in range(1, 4):
        difficulty._margin.cache_clear()
        for file in cache.iterdir(): file.unlink()  # as on another machine
        rest = simulate(config, digits, records[:done])
        assert list(map(outcome, rest)) == list(map(outcome, records[done:]))


def test_the_answer_does_not_depend_on_who_asks(cache):
    digits = load_data("digits")
    config = Config(dataset="digits", oracle=MARGIN, epsilon=.3, initial=20, budget=120, batch=50, epochs=1)
    said = [{}, {}]
    for strategy, labels in zip(("random", "least_confidence"), said):
        for record in simulate(replace(config, strategy=strategy), digits):
            labels.update(zip(record["queried"], record["answers"]))
    both = said[0].keys() & said[1].keys()
    assert both and all(said[0][i] == said[1][i] for i in both)


def test_a_study_names_its_annotator(cache, tmp_path):
    digits = load_data("digits")
    config = Config(dataset="digits", oracle=MARGIN, epsilon=.1, initial=20, budget=40, batch=20, epochs=1)
    assert config.condition == f"{ORACLES.spell(MARGIN)} 0.1"
    run_study([config], tmp_path/"out", digits, progress=False)
    assert set(load_results(tmp_path/"out").condition) == {config.condition}


def test_a_process_knows_the_difficulties():
    "A worker imports what its task needs, and no more."
    script = f"from al_cifar.loop.config import Config; Config(oracle={MARGIN!r}, epsilon=.1)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("text,message", [
    ("instance", "instance needs 'difficulty'"),
    ("instance(difficulty='margin(share=0.0)')", "share of margin must be in"),
    ("instance(difficulty='hard')", "difficulty must be one of"),
    ("instance(difficulty='margin', most=2.0)", "most of instance must be in"),
    ("instance(difficulty=\"file(path='d.npy', sha256='12')\")", "sha256 of file must be")])
def test_bad_texts_are_refused_before_a_run(text, message):
    with pytest.raises(ValueError, match=message): Config(oracle=text, epsilon=.1)


def test_a_level_out_of_reach_is_refused(cache):
    config = Config(dataset="digits", oracle=MARGIN, epsilon=.95, initial=20, budget=40, batch=20, epochs=1)
    with pytest.raises(ValueError, match="epsilon must be at most 0.9 if no rate is above most=0.9"):
        next(simulate(config, load_data("digits")))
