"""Losses, starts and stopping rules in whole runs: what they do, what they leave alone, and what a killed run becomes.

Formulas and gradients of the losses are held to slow definitions on their own pages, `nbs/model/losses.ipynb` and its neighbours.
"""
import random
import subprocess
import sys
import time
from dataclasses import replace
from math import isfinite

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional as F

from al_cifar.data import load_data
from al_cifar.forms.form import EXPERIMENT
from al_cifar.loop import TOY, Config, simulate
from al_cifar.loop.rounds import one_round, outcome, predict_test, train_all
from al_cifar.loop.run import advance, start_run
from al_cifar.loop.learned import held_images, learned_images, targets_of
from al_cifar.loop.training import Training, epochs_of, fit, measured, new_model, selector
from al_cifar.model.inference import normalise
from al_cifar.model.training import train
from al_cifar.oracle.annotator import ORACLES
from al_cifar.study import grid, load_results, run_study
from al_cifar.study.cohort import simulate_cohort
from al_cifar.study.records import read_run
from al_cifar.study.runs import run_id

DIGITS = load_data("digits")
SHORT = replace(TOY, epochs=10, train_batch=20)  # ten epochs is the default, which a rule with `most` wants
LEARNERS = [dict(loss="gce(q=0.7)"), dict(loss="mixup"), dict(loss="co_teaching(ramp=5)", reinit="fresh"),
            dict(loss="forward", reinit="warm(shrink=0.5, noise=0.1)", strategy="least_confidence", epsilon=.3),
            dict(stopping="validation(most=8)", reinit="warm", evaluators=2, selector_labels="true", epsilon=.5),
            dict(stopping="converged(most=12)", model="simple_cnn(norm='none')")]
TEXTS = [" ".join(map(str, learner.values())) for learner in LEARNERS]


def run_of(**change): return start_run(replace(SHORT, **change), DIGITS)


def outcomes(**change): return outcome(simulate(replace(SHORT, **change), DIGITS))


def next_round(run):
    "Take `run` to its next round with the queries that it makes itself."
    advance(run, one_round(run, DIGITS, DIGITS.x_train))


# What stays as it was

def test_the_default_loss_keeps_its_name_and_its_runs():
    plain = run_id(TOY, DIGITS)
    for text in ("cross_entropy()", "cross_entropy(smoothing=0)", "cross_entropy(smoothing=0.0)"):
        assert Config(loss=text).loss == "cross_entropy"
        assert run_id(replace(TOY, loss=text), DIGITS) == plain
    others = dict(loss="cross_entropy(smoothing=0.1)"), dict(reinit="warm"), dict(reinit="fresh")
    assert len({plain, *(run_id(replace(TOY, **other), DIGITS) for other in others)}) == 4


def test_round_0_is_that_of_every_other_start():
    first = [outcomes(reinit=start, budget=20) for start in ("theta0", "fresh", "warm(shrink=0.3, noise=0.2)")]
    assert first[0] == first[1] == first[2]


def test_later_rounds_differ_by_start():
    last = [outcomes(reinit=start)[-1] for start in ("theta0", "fresh", "warm", "warm(shrink=0.3, noise=0.2)")]
    assert len({record["nll"] for record in last}) == 4


@pytest.mark.parametrize("same", [dict(loss="mixup(alpha=1e-6)"), dict(loss="sce(alpha=1.0, beta=0.0)")], ids=str)
def test_limits_are_cross_entropy_to_the_last_bit(same): assert outcomes(**same) == outcomes()


@pytest.mark.parametrize("same", [dict(loss="gce(q=1e-6)"), dict(loss="forward"), dict(loss="forward", oracle="pair_flip"),
                                  dict(loss="co_teaching(forget=0.0)")], ids=str)
def test_limits_are_cross_entropy_up_to_rounding(same):
    logits = [predict_logits(one_epoch(**change)) for change in (dict(epsilon=0.), dict(epsilon=0.) | same)]
    assert np.allclose(*logits, atol=2e-2)
    assert not np.allclose(logits[0], predict_logits(one_epoch(loss="gce(q=1.0)")), atol=2e-2)


def one_epoch(**change): return fit([selector(run_of(epochs=1, **change))], DIGITS, DIGITS.x_train)


@torch.inference_mode()
def predict_logits(model): return model(normalise(DIGITS.x_test[:100])).numpy()


def test_rules_that_never_strike_are_fixed_epochs():
    assert outcomes(stopping="converged(accuracy=1.0, most=2)") == outcomes(epochs=2)


# What they do

def test_a_warm_start_goes_on_from_the_last_weights_and_each_training_has_its_own():
    run = run_of(reinit="warm", evaluators=2, selector_labels="true", epsilon=.5, noisy_initial=True)
    next_round(run)
    ended = run.weights.copy()
    assert len(ended) == 3  # the selector on true labels, two evaluators on given ones
    started = set()
    for training in (selector(run), *measured(run)):
        [last] = ended[training.at(0).identity]
        model = new_model([training], DIGITS, "cpu")
        for name, value in model.state_dict().items(): assert torch.equal(value, last[name]), name
        started.add(model.embed.bias[0].item())
    assert len(started) == 3


def test_a_warm_run_is_a_plain_training_that_goes_on():
    "The same by hand: one network, whose training goes on with a new optimiser in each round."
    run, model = run_of(reinit="warm"), None
    for number in range(3):
        training = Training(run, 0, "given")
        if model is None: model = new_model([training], DIGITS, "cpu")
        index, epochs = run.labelled, epochs_of([training], DIGITS, model)
        x, y = DIGITS.x_train[index][None], torch.from_numpy(run.labels[index])[None]
        train(model, x, y, epochs, pad=DIGITS.pad, batch=20)
        shown = normalise(DIGITS.x_test[:50])
        assert torch.equal(model.fold()(shown), fit([training], DIGITS, DIGITS.x_train)(shown))
        if number < 2: next_round(run)


def test_shrink_and_perturb_by_hand():
    run = run_of(reinit="warm(shrink=0.4, noise=0.1)")
    next_round(run)
    [last] = run.weights[selector(run).at(0).identity]
    bound = 128**-.5  # of a uniform draw, by the fan in
    fresh = run.streams("fresh", 0, 1, 0)
    before = (32, 3, 3, 3), (32,), (64, 32, 3, 3), (64,), (64, 64, 3, 3), (64,), (128, 256), (128,)  # layers in front
    for shape in before: fresh.uniform(size=shape)
    new = torch.from_numpy(fresh.uniform(-bound, bound, (10, 128))).float()
    assert torch.allclose(new_model([selector(run)], DIGITS, "cpu").classify.weight, .4*last["classify.weight"] + .1*new)


def test_counterfactuals_hold_with_a_warm_start():
    clean = outcomes(reinit="warm", epsilon=0.)
    both = outcomes(reinit="warm", epsilon=.5, selector_labels="true", measured_labels="true")
    one = outcomes(reinit="warm", epsilon=.5, measured_labels="true")
    for known in ("accuracy", "nll", "queried"):
        assert [r[known] for r in clean] == [r[known] for r in both] == [r[known] for r in one]


def test_labels_held_out_are_paid_for_and_not_learned():
    run = run_of(stopping="validation(share=0.25)", evaluators=2, epsilon=.5, noisy_initial=True)
    held, learned = held_images(run), learned_images(run)
    assert (len(held), len(learned)) == (5, 15) and sorted([*held, *learned]) == run.labelled.tolist()
    changed = run.labels.copy()
    run.config = replace(run.config, stopping="validation(share=0.25, patience=1, most=1)")
    before = predict_logits(fit([selector(run)], DIGITS, DIGITS.x_train))
    run.labels[held] = (changed[held] + 1) % 10  # one epoch only: there is nothing to decide
    assert np.array_equal(before, predict_logits(fit([selector(run)], DIGITS, DIGITS.x_train)))
    run.labels[learned] = (changed[learned] + 1) % 10
    assert not np.array_equal(before, predict_logits(fit([selector(run)], DIGITS, DIGITS.x_train)))


@pytest.mark.parametrize("stopping", ["validation(most=6)", "converged(most=6)"])
def test_stopping_never_sees_the_test_set(stopping):
    blind = replace(DIGITS, x_test=torch.zeros_like(DIGITS.x_test), y_test=torch.zeros_like(DIGITS.y_test))
    config = replace(SHORT, stopping=stopping, strategy="least_confidence")
    asked = [[record["queried"] for record in simulate(config, data)] for data in (DIGITS, blind)]
    assert asked[0] == asked[1]


def test_validation_keeps_its_best_epoch():
    wrong = dict(noisy_initial=True, epsilon=.6)  # the loss held out rises soon
    run = run_of(stopping="validation(share=0.3, patience=8, most=60)", initial=100, budget=120, **wrong)
    training, losses, states = selector(run), [], []
    model = new_model([training], DIGITS, "cpu")
    held, learned = held_images(run), learned_images(run)
    x, y = DIGITS.x_train[learned], torch.from_numpy(run.labels[learned])
    def watch(model, optimiser):
        logits = model.fold()(normalise(DIGITS.x_train[held]))
        losses.append(F.cross_entropy(logits, torch.from_numpy(run.labels[held])).item())
        states.append(model.fold()(normalise(DIGITS.x_test[:50])).detach())
        since = len(losses) - 1 - int(np.argmin(losses))
        return since >= 8
    train(model, x[None], y[None], epochs_of([training], DIGITS, model), pad=DIGITS.pad, batch=20, after_epoch=watch)
    best = states[int(np.argmin(losses))]
    kept = fit([training], DIGITS, DIGITS.x_train)(normalise(DIGITS.x_test[:50]))
    assert torch.allclose(best, kept, atol=1e-5)
    assert 9 < len(losses) < 60  # the best epoch is neither the first nor the last


def test_forward_uses_the_annotators_own_matrix_and_only_for_its_answers():
    matrix = tuple(tuple(.6 if a == b else .4 if b == (a + 3) % 10 else 0. for b in range(10)) for a in range(10))
    run = run_of(loss="forward", oracle=f"confusion(matrix={matrix})", epsilon=.4)
    next_round(run)
    rows = targets_of(run, "given", run.labelled)
    for image, row in zip(run.labelled, rows):
        label = run.labels[image]
        expected = np.eye(10)[label] if image in run.earlier[0][0] else np.array(matrix)[:, label]
        assert np.allclose(row, expected)


# Resume

@pytest.mark.parametrize("learner", LEARNERS, ids=TEXTS)
def test_resumed_after_any_round_and_calibration_recorded(learner):
    whole = list(simulate(replace(SHORT, **learner), DIGITS))
    for done in (1, 2):
        again = simulate(replace(SHORT, **learner), DIGITS, whole[:done])
        assert outcome(whole[:done]) + outcome(again) == outcome(whole)
    for record in whole: assert 0 <= record["ece"] <= 1 and isfinite(record["nll"]) and record["nll"] > 0


@pytest.mark.parametrize("reinit", ["warm", "warm(shrink=0.5, noise=0.1)"])
def test_runs_in_lockstep_resume_as_they_do_alone(reinit):
    configs = [replace(SHORT, epochs=3, reinit=reinit, strategy=name) for name in ("random", "least_confidence")]
    alone = [list(simulate(config, DIGITS)) for config in configs]
    rest = zip(*simulate_cohort(configs, DIGITS, [records[:2] for records in alone], together=1))
    assert [outcome(records) for records in rest] == [outcome(records[2:]) for records in alone]


def test_nll_of_a_robust_learner_is_that_of_its_probabilities():
    run = run_of(loss="sce", epsilon=.3)
    model = train_all(run, DIGITS, DIGITS.x_train)[selector(run).identity]
    logits = predict_test(model, DIGITS).astype(float)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    expected = log_loss(DIGITS.y_test.numpy(), probs/probs.sum(1, keepdims=True), labels=range(10))
    assert np.isclose(one_round(run, DIGITS, DIGITS.x_train)["nll"], expected)


WARM = dict(reinit="warm(shrink=0.6, noise=0.1)", measured_labels="true", epsilon=.3, epochs=3, strategy="least_confidence")
SCRIPT = f"""
import sys
from dataclasses import replace
from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.study import run_study
config = replace(TOY, budget=int(sys.argv[2]), **{WARM})
if __name__ == "__main__": run_study([config], sys.argv[1], load_data("digits"), progress=False)
"""


def killed_and_resumed(folder, kills, seed, budget):
    "Records of a warm run left alone and of one killed -9 at random moments, and how often it was killed."
    script, g = folder/"script.py", random.Random(seed)
    script.write_text(SCRIPT)
    command = [sys.executable, script, folder/"study", str(budget)]
    def files(): return list((folder/"study").glob("*.jsonl"))
    def on_disk(): return sum(path.read_bytes().count(b"\n") for path in files())
    for happened in range(kills + 1):
        process, wanted = subprocess.Popen(command, stdin=subprocess.DEVNULL), on_disk() + g.randint(1, 2)
        if happened == kills: break
        while on_disk() < wanted and process.poll() is None: time.sleep(.005)
        time.sleep(g.random()*.1)
        if process.poll() is not None: break
        process.kill()
        process.wait()
    assert process.wait() == 0
    [path] = files()
    alone = simulate(replace(TOY, budget=budget, **WARM), DIGITS)
    return outcome(alone), outcome(read_run(path)[1]), happened


def test_a_warm_run_killed_resumes_to_the_same_bits(tmp_path):
    alone, killed, happened = killed_and_resumed(tmp_path, 1, seed=0, budget=120)
    assert happened == 1 and len(alone) == 6 and alone == killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_warm_run_killed_often_resumes_to_the_same_bits(tmp_path, seed):
    alone, killed, happened = killed_and_resumed(tmp_path, 5, seed, budget=300)
    assert happened >= 3 and alone == killed


# By the front door, and what is refused there

def test_a_study_of_learners_says_which_are_aided(tmp_path):
    configs = grid(replace(SHORT, budget=20), loss=["cross_entropy", "forward"])
    run_study(configs, tmp_path, DIGITS, progress=False)
    learners = set(load_results(tmp_path, mix=["learner"]).learner)
    assert learners == {"train_batch=20", "train_batch=20 loss=forward (oracle-aided)"}


def test_the_form_takes_them():
    answers = EXPERIMENT.read(dict(dataset="digits", loss="gce(q=0.5)", reinit="warm", stopping="converged"))
    config = answers.config(answers.conditions[0])
    assert (config.loss, config.reinit, config.stopping) == ("gce(q=0.5)", "warm", "converged")


BAD = [(dict(loss="gce(q=0.0)"), "q of gce must be above 0"), (dict(loss="gce(q=1.1)"), "at most 1, got 1.1"),
       (dict(loss="gce(q=-1)"), "got -1.0"),
       (dict(loss="cross_entropy(smoothing=1)"), "smoothing must be at least 0 and below 1"),
       (dict(loss="sce(beta=-1.0)"), "beta of sce must be at least 0"),
       (dict(loss="mixup(alpha=0)"), "alpha of mixup must be above 0"),
       (dict(loss="co_teaching(forget=1)"), "forget of co_teaching must be at least 0 and below 1"),
       (dict(loss="co_teaching(ramp=0)"), "ramp of co_teaching must be at least 1"),
       (dict(loss="co_teaching(ramp=2.5)"), "ramp of co_teaching must be of kind int"),
       (dict(loss="forward", oracle="fatigue"), "needs an oracle with a transition matrix, one of "),
       (dict(stopping="validation(share=0)"), "share of validation must be above 0"),
       (dict(stopping="validation(share=1)"), "share of validation must be above 0 and below 1"),
       (dict(stopping="validation(patience=0)"), "patience of validation must be at least 1"),
       (dict(stopping="converged(accuracy=1.5)"), "accuracy of converged must be above 0 and at most 1"),
       (dict(stopping="converged", epochs=20), "epochs must be left at 10"),
       (dict(stopping="validation", averaging="tail"), "averaging='tail' needs a stopping such as 'fixed'"),
       (dict(stopping="validation", initial=1), "initial must be at least 2"),
       (dict(reinit="warm(shrink=1.5)"), "shrink of warm must be in [0, 1]"),
       (dict(reinit="warm(noise=-0.1)"), "noise of warm must be at least 0"),
       (dict(model="simple_cnn(norm='layer')"), "norm must be one of batch, group, none")]


@pytest.mark.parametrize("change,message", BAD, ids=[str(change) for change, _ in BAD])
def test_bad_input_is_refused_by_the_config(change, message):
    with pytest.raises(ValueError) as caught: Config(**change)
    assert message in str(caught.value)


def test_a_model_that_does_not_stack_has_no_peers():
    from al_cifar.model import MODELS, SimpleCNN
    @MODELS.register("lonely")
    class Lonely(SimpleCNN): stacks = False
    try:
        with pytest.raises(ValueError, match="model must be of a kind that stacks"): Config(model="lonely", loss="co_teaching")
        assert Config(model="lonely", loss="gce").model == "lonely"
    finally: del MODELS.components["lonely"]


def test_an_annotator_of_your_own_has_a_matrix_if_it_says_so():
    ORACLES.register("mine", transition=lambda annotator: np.eye(10))(ORACLES["fatigue"])
    try: assert Config(oracle="mine", loss="forward").oracle == "mine"
    finally: del ORACLES.components["mine"]
