"""Panels and repeated questions: a run with several answers about an image is as exact as any other."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import ndtri, softmax
from scipy.stats import multivariate_normal

from al_cifar.data import load_data
from al_cifar.loop import RELABELS, TOY, advance, fit, new_run, outcome, selector, simulate, start_run
from al_cifar.loop.run import luck_of, shared_of
from al_cifar.model.inference import infer
from al_cifar.oracle.panel import correlated, shared_luck
from al_cifar.study import load_results, read_run, run_id, run_study
from al_cifar.study.cohort import cohorts_of, simulate_cohort
from al_cifar.study.estimate import images_of
from al_cifar.study.records import parse_run
from al_cifar.study.runs import header

QUICK = replace(TOY, epochs=1, epsilon=.3)
PANEL = replace(QUICK, oracle="panel(rho=0.27)")
AGAIN = replace(QUICK, budget=80, relabel="suspicious(share=0.5)", noisy_initial=True)
ALL = replace(QUICK, budget=80, relabel="disagreement(share=0.4)",
              oracle="panel(of='fatigue', rho=0.27, votes='dawid_skene')", epsilon=0.)
VARIANTS = [PANEL, AGAIN, ALL]


def named(config): return f"{config.oracle} {config.relabel}"


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


@pytest.fixture(scope="module")
def whole(digits):
    "Every variant, run once."
    return {config: outcome(simulate(config, digits)) for config in VARIANTS}


# Laws

def test_second_is_wrong_as_often_as_in_cifar10n():
    rate, rho, n = .176, .27, 1_000_000
    first, common, u = np.random.default_rng(3).random((3, n))
    second = correlated(u, shared_luck(first, common, rho), rho)
    t = ndtri(rate)
    closed = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([t, t])/rate
    wrong = first < rate
    found = (second < rate)[wrong].mean()
    assert abs(closed - .29) < .005
    assert abs(found - closed) < 4*np.sqrt(closed*(1 - closed)/wrong.sum())
    assert abs((second < rate).mean() - rate) < 4*np.sqrt(rate*(1 - rate)/n)


def test_construction_given_the_first_has_the_law_of_one_factor():
    "Equation (2) against equation (1) as it stands: three answers, all eight outcomes."
    rate, rho, n = .3, .5, 400_000
    g = np.random.default_rng(4)
    first, common, *others = g.random((4, n))
    shared = shared_luck(first, common, rho)
    ours = np.stack([first, *(correlated(u, shared, rho) for u in others)]) < rate
    plain = np.sqrt(rho)*g.normal(size=n) + np.sqrt(1 - rho)*g.normal(size=(3, n)) < ndtri(rate)
    shares = [np.bincount(np.array([4, 2, 1]) @ wrong, minlength=8)/n for wrong in (ours, plain)]
    assert abs(shares[0] - shares[1]).max() < 5*np.sqrt(.25*2/n)


def test_luck_of_a_run(digits):
    run, plain = new_run(PANEL, digits), new_run(QUICK, digits)
    assert np.array_equal(luck_of(run, 0, 0), plain.luck)
    scores = ndtri([luck_of(run, j, visit)[0] for j in range(3) for visit in range(2)])
    found = np.corrcoef(scores)[np.triu_indices(6, 1)]
    assert abs(found - .27).max() < 4/np.sqrt(len(run.labels))
    uncorrelated = new_run(replace(PANEL, oracle="panel"), digits)
    for j, visit in ((1, 0), (2, 0), (0, 1)):
        assert np.array_equal(luck_of(uncorrelated, j, visit), run.streams("noise", j, visit).random((2, 1297)))


def test_difficulty_is_common_where_noise_is(digits):
    def shared(strategy, **more): return shared_of(new_run(replace(PANEL, strategy=strategy, **more), digits), .27)
    assert np.array_equal(shared("random"), shared("kmeans"))
    assert not np.array_equal(shared("random", independent=("noise",)), shared("kmeans", independent=("noise",)))


def test_rerun_luck_of_one_annotator_can_be_correlated(digits):
    run = new_run(replace(QUICK, oracle="panel(size=1, rho=0.5)"), digits)
    scores = ndtri([luck_of(run, 0, visit)[0] for visit in range(3)])
    assert abs(np.corrcoef(scores)[np.triu_indices(3, 1)] - .5).max() < 4/np.sqrt(len(run.labels))


# Identities

@pytest.mark.parametrize("oracle", ["panel(size=1)", "panel(size=1, rho=0.5)"])
def test_panel_of_one_is_its_member(oracle, digits):
    plain = outcome(simulate(QUICK, digits))
    assert outcome(simulate(replace(QUICK, oracle=oracle), digits)) == plain


def test_panel_shares_its_first_answers_with_the_annotator(digits, whole):
    plain, panel = outcome(simulate(QUICK, digits))[0], whole[PANEL][0]
    assert plain["queried"][:6] == panel["queried"]  # of random
    assert plain["answers"][:6] == panel["answers"][::3]


def test_relabelling_begins_like_a_plain_run(digits):
    plain = outcome(simulate(QUICK, digits))
    again = outcome(simulate(replace(QUICK, relabel="suspicious"), digits))
    assert again[0].pop("asked_again") == again[0].pop("answers_again") == []
    assert again[0] == plain[0]
    assert again[1]["queried"] == plain[1]["queried"][:16]  # random needs nothing but its ranking


def test_plain_files_are_as_they_were(digits):
    head = header(QUICK, digits)
    assert not {"panel_size", "again_share"} & {*head}
    assert not {"asked_again", "answers_again"} & {*next(simulate(QUICK, digits))}
    assert run_id(TOY, digits) == "random-e0.1-r0-4f477ae87f4b1659"  # as before there were panels


# Runs

def labels_by_hand(config, digits, records):
    "The labels before each round, from the records alone."
    run, votes, found = new_run(config, digits), {}, []
    labels = dict(zip(run.labelled.tolist(), run.labels[run.labelled].tolist()))
    if config.noisy_initial: votes = {image: [label] for image, label in labels.items()}
    for record in records:
        found.append(dict(labels))
        for images, answers in (("queried", "answers"), ("asked_again", "answers_again")):
            for image, answer in zip(record[images], record[answers]): votes.setdefault(image, []).append(answer)
        labels |= {image: max(said, key=said.count) for image, said in votes.items()}  # max takes the first
    return found


def test_labels_are_the_majority_of_all_votes(digits, whole):
    records, run = whole[AGAIN], new_run(AGAIN, digits)
    for record, labels in zip(records, labels_by_hand(AGAIN, digits, records)):
        assert dict(zip(run.labelled.tolist(), run.labels[run.labelled].tolist())) == labels
        assert record["n_wrong"] == sum(run.true[image] != label for image, label in labels.items())
        advance(run, record)
    assert max(run.asked) > 2  # some were asked about three times
    assert sum(len(r["queried"]) + len(r["asked_again"]) for r in records) == 60


def test_suspicious_are_the_least_probable(digits, whole):
    "By a training of its own."
    run = start_run(AGAIN, digits, whole[AGAIN][:2])
    rows = run.labelled
    model = fit([selector(run)], digits, digits.x_train)
    logits, _ = infer(model, digits.x_train[torch.from_numpy(rows)])
    given = softmax(logits.double().numpy().reshape(len(rows), -1), axis=1)[np.arange(len(rows)), run.labels[rows]]
    again = whole[AGAIN][2]["asked_again"]
    assert len(again) == 10 and given[np.isin(rows, again)].max() < given[~np.isin(rows, again)].min()



@pytest.mark.parametrize("config", VARIANTS, ids=named)
def test_resumes_after_every_round(config, digits, whole):
    for done in range(1, len(whole[config])):
        assert outcome(simulate(config, digits, whole[config][:done])) == whole[config][done:]


@pytest.mark.parametrize("config", VARIANTS, ids=named)
def test_lockstep_is_serial(config, digits, whole):
    worlds = [config, replace(config, strategy="least_confidence")]
    together = list(zip(*simulate_cohort(worlds, digits)))
    assert outcome(together[0]) == whole[config]
    for one, records in zip(worlds[1:], together[1:]): assert outcome(records) == outcome(simulate(one, digits))


def test_a_cohort_has_one_schedule(digits):
    jobs = {name: (config, digits) for name, config in (("one", QUICK), ("three", PANEL), ("two", replace(QUICK, epsilon=.1)))}
    assert sorted(map(sorted, cohorts_of(jobs, 10))) == [["one", "two"], ["three"]]
    with pytest.raises(ValueError, match="schedule must be the same for all runs of a cohort"):
        simulate_cohort([QUICK, PANEL], digits)


@pytest.mark.parametrize("config", VARIANTS, ids=named)
def test_file_cut_anywhere_goes_on(config, digits, whole, tmp_path):
    [path] = run_study([config], tmp_path, digits, progress=False)
    text = path.read_bytes()
    assert outcome(read_run(path)[1]) == whole[config]
    ends = [i + 1 for i, byte in enumerate(text) if byte == ord("\n")]
    for cut in (ends[0] + 9, ends[2] - 3):
        path.write_bytes(text[:cut])
        run_study([config], tmp_path, digits, progress=False)
        assert outcome(read_run(path)[1]) == whole[config]


def test_results_count_answers(digits, tmp_path):
    run_study([QUICK, PANEL], tmp_path, digits, progress=False)
    frame = load_results(tmp_path)
    counts = frame.groupby("oracle")[["n_labels", "n_answers"]].agg(list)
    assert counts.loc["uniform"].tolist() == [[20, 40, 60]]*2
    assert counts.loc["panel(rho=0.27)"].tolist() == [[20, 26, 32], [20, 38, 56]]


def test_estimate_knows_how_many_labels_there_are(digits):
    trained, _ = images_of(PANEL, digits)
    assert trained == PANEL.epochs*(20 + 26 + 32)


def test_rule_of_ones_own(digits, tmp_path):
    "Its file can be read where nobody has registered it."
    @RELABELS.register("toy_latest")
    def toy_latest(asked, *, share=.25): return asked.priority/len(asked.priority)
    try:
        config = replace(QUICK, relabel="toy_latest")
        [path] = run_study([config], tmp_path, digits, progress=False)
    finally: del RELABELS.components["toy_latest"]
    head, records = read_run(path)
    assert [len(r["asked_again"]) for r in records] == [0, 5, 0] and list(head["sources"]) == ["relabel"]
    frame = load_results(tmp_path)
    assert frame.n_labels.tolist() == [20, 40, 55] and frame.n_answers.tolist() == [20, 40, 60]
    assert set(frame.strategy) == {"random + toy_latest"}


def test_rule_without_a_share():
    RELABELS.register("toy_shareless")(lambda asked: asked.priority)
    try:
        with pytest.raises(ValueError, match="relabel toy_shareless must have a parameter share"):
            replace(QUICK, relabel="toy_shareless")
    finally: del RELABELS.components["toy_shareless"]


# Strict records

@pytest.mark.parametrize("change, message", [
    ({"answers": [0]*6}, "answers must be 18 numbers, got 6"),
    ({"answers": [0]*17 + [10]}, "answers must be below 10, got 10"),
    ({"queried": [0]*6}, "queried must be different images"),
    ({"n_labels": 40}, "expected n_labels 20, got 40")])
def test_strict_about_a_panel(change, message, digits, whole):
    lines = [header(PANEL, digits), whole[PANEL][0] | change]
    del lines[0]["format"]  # lines without checksums
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with pytest.raises(ValueError, match=message): parse_run(text, "x")


def test_replay_refuses_another_vote(digits, whole):
    first = whole[PANEL][0]
    votes = [(first["answers"][0] + 1) % 10, *first["answers"][1:]]
    with pytest.raises(ValueError, match="belongs to another run: answers differ"):
        simulate(PANEL, digits, [first | {"answers": votes}])


@pytest.mark.parametrize("change, message", [
    ({"asked_again": []}, "asked_again must be 10 numbers, got 0"),
    ({"answers_again": [0]*9}, "answers_again must be 10 numbers, got 9"),
    ({"asked_again": [0]*10}, "asked_again must be different images")])
def test_strict_about_relabelling(change, message, digits, whole):
    lines = [header(AGAIN, digits), whole[AGAIN][0], whole[AGAIN][1] | change]
    del lines[0]["format"]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with pytest.raises(ValueError, match=message): parse_run(text, "x")


@pytest.mark.parametrize("change, message", [
    (lambda again: [*again[1:], again[1]], "got one twice"),
    (lambda again: again[1:], "asked_again must be 10 different images"),
    (lambda again: [*again[1:], 1296], "asked about before of 1297, got 1296")])
def test_replay_checks_who_was_asked_again(change, message, digits, whole):
    first, second = whole[AGAIN][:2]
    assert 1296 not in first["queried"]
    second = second | {"asked_again": change(second["asked_again"])}
    with pytest.raises(ValueError, match=message): simulate(AGAIN, digits, [first, second])


# Bad input

@pytest.mark.parametrize("given, message", [
    (dict(oracle="panel(size=0)"), "size of panel must be at least 1"),
    (dict(oracle="panel(rho=1.0)"), r"rho of panel must be in \[0, 1\)"),
    (dict(oracle="panel(of='nobody')"), "oracle must be one of"),
    (dict(oracle="panel(of='human')"), "luck of its own, not human"),
    (dict(oracle="panel(votes='mean')"), "votes of panel must be one of"),
    (dict(oracle="panel(size=21)"), "size of panel must be at most batch=20, got 21"),
    (dict(oracle="panel", budget=61), "budget must leave at least 3 answers"),
    (dict(oracle="panel", noisy_initial=True), "noisy_initial must be False for a panel"),
    (dict(oracle="panel(of='fatigue')"), "epsilon must be 0 for panel"),
    (dict(relabel="sometimes"), "relabel must be one of none"),
    (dict(relabel="suspicious(share=0)"), "share must be above 0 and below 1, got 0.0"),
    (dict(relabel="suspicious(share=1)"), "share must be above 0 and below 1, got 1.0"),
    (dict(relabel="suspicious(share=0.02)"), "with the 20 questions of a round"),
    (dict(relabel="suspicious", oracle="panel(size=11)", budget=60), "with the 1 questions of a round")])
def test_bad_input(given, message):
    with pytest.raises(ValueError, match=message): replace(QUICK, **given)
