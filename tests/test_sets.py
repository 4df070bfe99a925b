"Crossings, regimes of the pool, folders and torchvision's data sets, deeper learners and a user's own."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from al_cifar.analysis.crossover import crossover
from al_cifar.data.regimes import REGIMES, in_regime, of_images
from al_cifar.data.sources import load_data
from al_cifar.forms.errors import ExperimentError
from al_cifar.forms.experiment import expect, prepare, run_experiment
from al_cifar.forms.form import EXPERIMENT
from al_cifar.loop.config import TOY
from al_cifar.loop.rounds import outcome, simulate
from al_cifar.study.records import read_run
from al_cifar.study.results import load_results
from al_cifar.study.running import grid, run_study
from al_cifar.study.runs import run_id
from al_cifar.study.workers import process_pool


def study(replications, seed, at=470, between=.004, within=0., rounds=8, slope=5e-5):
    "Two strategies whose true difference is slope times (n - at); `between` replications it is off by a constant."
    g = np.random.default_rng(seed)
    n = 100*np.arange(1, rounds + 1)
    off = between*g.standard_normal((replications, 1)) + within*g.standard_normal((replications, rounds))
    pair = {"random": np.full((replications, rounds), .5), "margin": .5 + slope*(n - at) + off}
    parts = [pd.DataFrame(dict(condition="0.0", strategy=name, replication=np.repeat(np.arange(replications), rounds),
                               n_labels=np.tile(n, replications), accuracy=accuracy.ravel()))
             for name, accuracy in pair.items()]
    return pd.concat(parts)


def test_crossing_of_straight_curves_is_found():
    row = crossover(study(10, 0, between=0), "margin").iloc[0]
    assert np.allclose([row.labels, row.ci_low, row.ci_high], 470)
    one = crossover(study(10, 0), "margin", g=np.random.default_rng(5))
    same = crossover(study(10, 0), "margin", g=np.random.default_rng(5))
    other = crossover(study(10, 0), "margin", g=np.random.default_rng(6))
    pd.testing.assert_frame_equal(one, same)
    assert one.ci_low[0] != other.ci_low[0] and one.labels[0] == other.labels[0]


def test_resampled_crossings_have_the_same_quantiles():
    "The limits of the percentile method are the quantiles of the crossings of resampled curves, done one by one."
    df, draws = study(12, 3), 4000
    table = df.pivot(index="replication", columns=["strategy", "n_labels"], values="accuracy")
    d, n = (table["margin"] - table["random"]).to_numpy(), np.array(table["margin"].columns)
    g, found = np.random.default_rng(0), []
    for _ in range(draws):
        mean = d[g.integers(12, size=12)].mean(0)
        found.append(np.interp(0, mean, n))  # the curves rise
    row = crossover(df, "margin", method="percentile", draws=draws).iloc[0]
    assert np.allclose([row.ci_low, row.ci_high], np.quantile(found, [.025, .975]), atol=8)


@pytest.mark.slow
@pytest.mark.parametrize("replications", [5, 20])
@pytest.mark.parametrize("within, most", [(0., .975), (.004, 1.)])
def test_coverage_of_the_interval(replications, within, most):
    studies, held, narrow = 600, 0, 0
    for seed in range(studies):
        df = study(replications, seed, within=within)
        rows = [crossover(df, "margin", method=method, draws=500, g=np.random.default_rng(seed)).iloc[0]
                for method in ("studentized", "percentile")]
        covers = [row.ci_low <= 470 <= row.ci_high for row in rows]
        held, narrow = held + covers[0], narrow + covers[1]
    print(f"{replications} replications, within {within}: {held/studies:.3f}, percentile {narrow/studies:.3f}")
    assert .95 - 4*(.95*.05/studies)**.5 < held/studies <= most
    assert narrow <= held


def save_images(root, n_train, n_test=2, classes=("cat", "dog"), seed=0):
    "A folder of grey noise images, `n_train` and `n_test` of each class; class by class darker."
    g = np.random.default_rng(seed)
    for split, n in ("train", n_train), ("test", n_test):
        for c, name in enumerate(classes):
            (root/split/name).mkdir(parents=True)
            for i in range(n):
                image = g.integers(0, 100, (8, 8), dtype=np.uint8) + np.uint8(100*c/len(classes))
                Image.fromarray(image).save(root/split/name/f"{i:04d}.png")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A folder of 390 images of two classes."
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"cache"))
    return save_images(tmp_path/"mine", 195)


QUICK = dict(strategies="random", replications=1, epochs=1, epsilon=0., workers=1)


def test_a_small_folder_gets_a_schedule_that_fits(folder, tmp_path):
    plan = prepare(EXPERIMENT, QUICK | dict(dataset="folder", data_root=str(folder), out_dir=str(tmp_path/"out")))
    config, = plan.configs
    assert (config.initial, config.batch, config.budget) == (9, 9, 180)
    first, *_ = expect(plan).splitlines()
    assert first.startswith("The pool is small, so initial=9, budget=180, batch=9")
    assert len(load_results(run_experiment(plan))) == 20


@pytest.mark.parametrize("said, schedule", [
    (dict(budget=60), (3, 3, 60)), (dict(budget=50, initial=10), (10, 2, 50)), (dict(batch=50), (50, 50, 195)),
    (dict(candidates=5), None), (dict(initial=200), (200, 9, 209)), (dict(budget=390, batch=390, initial=2), (2, 390, 390))])
def test_what_was_said_is_kept(folder, said, schedule):
    plan = prepare(EXPERIMENT, QUICK | dict(dataset="folder", data_root=str(folder)) | said)
    config, = plan.configs
    assert {name: getattr(config, name) for name in said} == said
    if schedule: assert (config.initial, config.batch, config.budget) == schedule
    else: assert config.batch <= config.candidates
    expect(plan)


def test_too_much_said_is_still_an_error(folder):
    said = QUICK | dict(dataset="folder", data_root=str(folder))
    with pytest.raises(ExperimentError, match="budget must be at most 390"): expect(prepare(EXPERIMENT, said | dict(budget=2000)))
    with pytest.raises(ExperimentError, match="budget must be at least initial=50"): prepare(EXPERIMENT, said | dict(initial=50, budget=20))


def test_flip_and_pad_reach_the_runs_and_their_workers(folder, tmp_path):
    said = QUICK | dict(dataset="folder", data_root=str(folder), budget=20, initial=10, batch=10, out_dir=str(tmp_path/"out"))
    usual, still = (prepare(EXPERIMENT, said | facts) for facts in ({}, dict(flip="false", pad="0")))
    assert (usual.data.flip, usual.data.pad, still.data.flip, still.data.pad) == (True, 1, False, 0)
    with process_pool(1) as pool: done = run_study(still.configs, still.folder, still.data, executor=pool)
    assert read_run(done[0])[0]["fingerprint"] == still.data.fingerprint != usual.data.fingerprint


def test_regimes_travel_to_workers(tmp_path):
    @REGIMES.register("toy_thinned")
    def thinned(data, *, step=2): return of_images(data, np.arange(0, len(data.y_train), step))

    regimes = ["full", "long_tail(ratio=5)", "keep_classes(classes=(3, 8))", "toy_thinned(step=3)"]
    configs = grid(TOY, regime=regimes)
    here = run_study(configs, tmp_path/"here", progress=False)
    with process_pool(2) as pool: there = run_study(configs, tmp_path/"there", executor=pool, progress=False)
    heads = [read_run(path)[0] for path in there]
    for a, b in zip(here, there): assert (a.name, outcome(read_run(a)[1])) == (b.name, outcome(read_run(b)[1]))
    digits = load_data("digits")
    assert [head["fingerprint"] for head in heads] == [in_regime(digits, regime).fingerprint for regime in regimes]
    assert len({path.name for path in there}) == 4 and "regime" in heads[3]["sources"]
    assert [len(head["initial_set"]) for head in heads] == [20]*4
    assert heads[0]["config"]["regime"] == "full" and here[0].name == f"{run_id(TOY, digits)}.jsonl"


def test_a_long_tail_without_enough_for_the_initial_set():
    tail = in_regime(load_data("digits"), "long_tail(ratio=50)")
    config = replace(TOY, regime="long_tail(ratio=50)", initial=50)
    with pytest.raises(ValueError, match="initial=50 needs 5 images of class 8, the data has 3"): simulate(config, tail)
    record = next(iter(simulate(replace(config, stratified=False), tail)))
    assert record["n_labels"] == 50 and record["class_counts"][0] > record["class_counts"][9]
    with pytest.raises(ValueError, match="regime 'long_tail"): simulate(config, load_data("digits"))


def test_the_paper_form_of_a_long_tail_scales_its_initial_set():
    plan = prepare(EXPERIMENT, QUICK | dict(dataset="digits", regime="long_tail(ratio=50)"))
    assert plan.configs[0].initial <= 20 and "The pool is small" in expect(plan)
