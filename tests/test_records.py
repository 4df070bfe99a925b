"""Run files: every append is checked, every line is checked, and no file is trusted by its name."""
import json
import math
import os
import shutil
from dataclasses import replace

import pytest

from al_cifar.data import load_data
from al_cifar.loop import TOY, simulate
from al_cifar.study import read_run, run_id, run_study
from al_cifar.study.durable import durable_rounds
from al_cifar.study.kinds import KINDS, are_of_kinds, check_kinds
from al_cifar.study.records import parse_run
from al_cifar.study.runs import header


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


def test_two_writers_without_a_lock(digits, tmp_path):
    path, config = tmp_path/"run.jsonl", replace(TOY, epochs=1)
    first = durable_rounds(config, digits, path)
    next(first)
    shutil.rmtree(tmp_path/".study")
    second = durable_rounds(config, digits, path, wait=0)
    next(second)
    with pytest.raises(RuntimeError, match="another process writes this run.*run.jsonl"): next(first)
    list(second)
    assert [record["round"] for record in read_run(path)[1]] == [0, 1, 2]


@pytest.mark.parametrize("gone", [False, True])
def test_file_replaced_under_its_writer(gone, digits, tmp_path):
    path = tmp_path/"run.jsonl"
    rounds = durable_rounds(replace(TOY, epochs=1), digits, path)
    next(rounds)
    before = path.read_bytes()
    if gone: path.unlink()
    else:
        (tmp_path/"copy").write_bytes(before)
        os.replace(tmp_path/"copy", path)
    with pytest.raises(RuntimeError, match="another process writes this run"): next(rounds)
    assert gone or path.read_bytes() == before


def test_copy_under_another_name(digits, tmp_path):
    a, b = replace(TOY, strategy="margin", epochs=1), replace(TOY, strategy="entropy", epochs=1)
    [of_b] = run_study([b], tmp_path, digits, progress=False)
    of_a = tmp_path/f"{run_id(a, digits)}.jsonl"
    shutil.copy(of_b, of_a)
    with pytest.raises(ValueError, match=f"{of_a.name}, line 1: another run.*strategy differ"):
        run_study([a], tmp_path, digits, progress=False)


@pytest.mark.parametrize("spoil, message", [
    (lambda asked: asked[1:], "got 19"),
    (lambda asked: [*asked[1:], asked[1]], "got one twice"),
    (lambda asked: [*asked[1:], 5_000], "got 5000"),
    (lambda asked: [*asked[1:], -1], "got -1")])
def test_replay_checks_what_was_asked(spoil, message, digits):
    config = replace(TOY, epochs=1)
    first = next(simulate(config, digits))
    with pytest.raises(ValueError, match=message):
        simulate(config, digits, [dict(first, queried=spoil(first["queried"]))])


@pytest.mark.parametrize("change, message", [
    ({"accuracy": 7.}, "accuracy must be a number in"),
    ({"accuracy": float("nan")}, "NaN is no number"),
    ({"n_labels": 20.}, "n_labels must be a whole number"),
    ({"queried": [], "answers": []}, "queried must be 20 numbers, got 0"),
    ({"seconds": {"train": "long"}}, "seconds must be numbers by name")])
def test_values_are_checked(change, message, digits):
    head, record = header(TOY, digits), next(simulate(replace(TOY, epochs=1), digits))
    older = {name: value for name, value in head.items() if name != "format"}  # without checksums
    lines = [json.dumps(value).encode() + b"\n" for value in (older, record | change)]
    with pytest.raises(ValueError, match=f"some.jsonl, line 2: .*{message}"): parse_run(b"".join(lines), "some.jsonl")


def test_deep_and_early_ends_are_errors(digits):
    with pytest.raises(ValueError, match="line 1: not JSON"): parse_run(b"["*100_000 + b"\n", "some.jsonl")
    with pytest.raises(ValueError, match="line 1: 'batch' is missing"):
        parse_run(b'{"config": {"initial": 1, "budget": 2}, "fingerprint": "a", "streams": 1, '
                  b'"condition": "", "dataset": "", "epsilon_drawn": 0}\n', "some.jsonl")


# A kind is asked about many values at once. Here it is asked about one, in plain words.

def number(x): return type(x) in (int, float) and abs(x) <= 1.7976931348623157e308
def whole(x): return type(x) is int and x >= 0
def share(x): return number(x) and 0 <= x <= 1
def each(good): return lambda x: type(x) is list and all(good(y) for y in x)
def null(good): return lambda x: x is None or good(x)
def times(x): return type(x) is dict and all(number(y) for y in x.values())

PLAIN = {
    **dict.fromkeys(["round", "n_labels", "n_wrong"], whole), "accuracy": share, "accuracies": each(share),
    **dict.fromkeys(["class_counts", "queried", "answers", "asked_again", "answers_again"], each(whole)), "seconds": times,
    "per_class": null(each(null(share))), **dict.fromkeys(["ece", "wrong_confidence"], null(share)),
    **dict.fromkeys(["nll", "batch_spread"], null(number)), "queried_wrong": null(whole)}
ONES = [0, 1, -1, 2, 10**400, -10**400, 0., .5, 1., -.0, 1.5, -1e-9, 1e308, math.inf, -math.inf, math.nan, True, False,
        None, "", "0", "a"]
VALUES = [*ONES, [], {}, *([x] for x in ONES), *([0, x, 1] for x in ONES), *({"a": x, "b": .5} for x in ONES), [[0]],
          [{}], {"a": [0]}]


@pytest.mark.parametrize("name", KINDS)
def test_kinds_say_what_plain_words_say(name):
    assert PLAIN.keys() == KINDS.keys()
    good = [value for value in VALUES if PLAIN[name](value)]
    assert 0 < len(good) < len(VALUES)
    for value in VALUES:
        fits = PLAIN[name](value)
        assert KINDS[name].fits([value]) is KINDS[name].fits([*good, value, *good]) is fits, value
        assert are_of_kinds([{}, {name: value}, {name: good[0]}], KINDS, ()) is fits, value
        if fits: check_kinds({name: value}, KINDS, ())
        else:
            with pytest.raises(ValueError, match=f"{name} must be"): check_kinds({name: value}, KINDS, ())
    assert not are_of_kinds([{name: good[0]}, {}], KINDS, (name,))
