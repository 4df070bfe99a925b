"""Frozen features, from the data to the run files.

What the pages show on one process, held here against other processes, threads, caches and bad input."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from al_cifar.data import REPRESENTATIONS, FeatureData, load_data, load_source, patches, read_data, save_data
from al_cifar.data.images import ARRAYS
from al_cifar.data.saved import user_cache
from al_cifar.forms.experiment import prepare, run_experiment
from al_cifar.forms.form import EXPERIMENT
from al_cifar.loop import TOY, check_config, outcome, simulate
from al_cifar.strategies import STRATEGIES, register
from al_cifar.study import load_results, run_study
from al_cifar.study.cohort import simulate_cohort
from al_cifar.study.runs import run_id
from al_cifar.study.workers import process_pool

SMALL = "patches(filters=8)"
LINEAR = replace(TOY, representation=SMALL, model="linear", strategy="least_confidence")


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    "A cache for this file, also for the processes that it starts."
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield user_cache()


@pytest.fixture
def mine(tmp_path, digits):
    "A folder of one's own features: mean brightness of 16 squares of each digit."
    def squares(x): return torch.nn.functional.adaptive_avg_pool2d(x.float()/255, 4)[:, 0].flatten(1)
    arrays = squares(digits.x_train), digits.y_train, squares(digits.x_test), digits.y_test
    for name, array in zip(ARRAYS, arrays): np.save(tmp_path/f"{name}.npy", array.numpy())
    return tmp_path


# Runs on pixels are what they were

def test_runs_on_pixels_keep_their_names(digits):
    assert run_id(TOY, digits) == "random-e0.1-r0-4f477ae87f4b1659"
    other = replace(TOY, strategy="least_confidence", replication=3, lr=.01)
    assert run_id(other, digits) == "least_confidence-e0.1-r3-0a0d9f9af671a6ea"
    assert run_id(LINEAR, digits) != run_id(replace(LINEAR, representation="patches(filters=9)"), digits)


# Patches

def test_features_depend_on_no_test_image_no_label_and_no_number_of_threads(digits):
    def computed(data, threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try: return REPRESENTATIONS.make(SMALL)(data)
        finally: torch.set_num_threads(before)
    found = computed(digits, 1)
    cut = replace(digits, x_test=digits.x_test[:7], y_test=digits.y_test[:7], y_train=digits.y_train.flip(0))
    other = computed(cut, 2)
    assert torch.equal(found.x_train, other.x_train)
    assert torch.equal(found.x_test[:7], other.x_test)


def test_a_damaged_cache_is_computed_anew(digits):
    found = patches(digits, filters=6)
    place = Path(found.source[1])
    with open(place/"x_train.npy", "r+b") as file:
        file.seek(4000)
        file.write(b"\xff"*8)
    with pytest.raises(ValueError, match="damaged"): read_data(place)
    assert patches(digits, filters=6).fingerprint == found.fingerprint
    assert read_data(place).fingerprint == found.fingerprint


def test_no_cache_is_no_obstacle(digits, monkeypatch, tmp_path):
    (tmp_path/"file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path/"file"))
    with pytest.warns(UserWarning, match="could not be cached"): found = patches(digits, filters=5)
    assert found.shape == (20,)


# Data

def test_features_travel_like_images(mine, digits, tmp_path):
    data = load_data("features", mine)
    there = load_source(json.loads(json.dumps(data.source)))
    assert there.fingerprint == data.fingerprint
    saved = read_data(save_data(data, tmp_path/"saved"))
    assert (type(saved), saved.fingerprint) == (FeatureData, data.fingerprint)
    assert not np.array_equal(data.x_train, digits.x_train)


MISFITS = [
    (dict(model="simple_cnn"), "model must learn on features .linear, mlp.*got 'simple_cnn'"),
    (dict(representation="patches"), "representation must be 'pixels' for features, which holds features"),
    (dict(averaging="tail"), "averaging must be 'none' for linear, got 'tail'"),
    (dict(augment_scoring=True), "augment_scoring must be False for linear, got True"),
    (dict(strategy="looks_at_images"), "strategy must not look at images, features has none"),
]


@pytest.mark.parametrize("changes, message", MISFITS, ids=[str(changes) for changes, _ in MISFITS])
def test_what_does_not_go_together_is_refused_before_any_work(mine, changes, message, monkeypatch):
    monkeypatch.setattr(STRATEGIES, "components", dict(STRATEGIES.components))
    @register("looks_at_images", needs=("images",))
    def looks_at_images(view, k, g): return view.images().float().mean((1, 2, 3)).numpy().argsort()[:k]
    own = replace(TOY, dataset="features", model="linear")
    data = load_data("features", mine)
    check_config(own, data)
    with pytest.raises(ValueError, match=message): check_config(replace(own, **changes), data)


# Runs

def test_a_run_sees_what_its_annotator_says_and_only_that(digits):
    noisy = replace(LINEAR, epsilon=.3)
    clean = replace(noisy, epsilon=0.)
    true = replace(noisy, selector_labels="true", measured_labels="true")
    asked = [[record["queried"] for record in simulate(config, digits)] for config in (noisy, clean, true)]
    assert asked[0] != asked[1] == asked[2]
    measured = [[record["accuracy"] for record in simulate(config, digits)] for config in (clean, true)]
    assert measured[0] == measured[1]


def test_evaluators_agree_and_measures_are_there(digits):
    records = list(simulate(replace(LINEAR, evaluators=2, epsilon=.3), digits))
    for record in records: assert record["accuracies"][0] == record["accuracies"][1]
    assert {"ece", "nll", "per_class", "wrong_confidence", "batch_spread"} <= records[0].keys()
    assert records[-1]["accuracy"] > .6 and records[0]["batch_spread"] > 0


@pytest.mark.parametrize("model", ["linear", "mlp(width=8)"])
def test_in_lockstep_as_alone(digits, model):
    configs = [replace(LINEAR, model=model, replication=r) for r in (0, 1)]
    together = list(simulate_cohort(configs, digits, together=2))
    for i, config in enumerate(configs):
        alone = [record["accuracy"] for record in simulate(config, digits)]
        assert [records[i]["accuracy"] for records in together] == pytest.approx(alone, abs=.02)


@pytest.mark.parametrize("model, strategy", [("linear", "least_confidence"), ("mlp(width=8)", "kmeans")])
def test_a_run_cut_after_any_round_goes_on_to_the_same_bits(digits, model, strategy):
    config = replace(LINEAR, model=model, strategy=strategy, epsilon=.3)
    whole = list(simulate(config, digits))
    for done in range(1, len(whole)):
        rest = list(simulate(config, digits, whole[:done]))
        assert outcome(rest) == outcome(whole[done:])


def test_training_gives_the_same_bits_on_any_number_of_threads(digits):
    def first_round(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try: return next(iter(simulate(replace(LINEAR, initial=60), digits)))
        finally: torch.set_num_threads(before)
    assert outcome([first_round(1)]) == outcome([first_round(2)])


def test_other_processes_get_the_same_results(mine, digits, tmp_path):
    own = replace(TOY, dataset="features", model="linear", strategy="least_confidence")
    data = load_data("features", mine)
    with process_pool(1) as pool:
        files = run_study([own], tmp_path/"own", data, executor=pool, progress=False)
        files += run_study([LINEAR], tmp_path/"patches", digits, executor=pool, progress=False)
    found = [load_results(file.parent)["accuracy"].tolist() for file in files]
    here = [[record["accuracy"] for record in simulate(*run)] for run in ((own, data), (LINEAR, digits))]
    assert found == here


def test_the_front_door(tmp_path, digits):
    said = dict(dataset="digits", representation="patches(filters=8)", model="linear(l2=0.1)", epsilon=.1,
                replications=2, strategies="random", initial=20, budget=60, batch=20, workers=1,
                out_dir=str(tmp_path/"runs"))
    files = run_experiment(prepare(EXPERIMENT, said))
    results = load_results(tmp_path/"runs")
    assert len(files) == 2
    assert set(results.learner) == {"representation=patches(filters=8) model=linear(l2=0.1)"}
