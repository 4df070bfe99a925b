"""Every cut and every flipped bit of every file that a study writes: never other values without an error.

The default run takes a sample; `pytest -n 0 -m slow -s tests/test_campaigns.py` takes them all and prints what happened.
"""
import shutil
import warnings
from collections import Counter
from dataclasses import replace
from time import monotonic

import numpy as np
import pytest

from al_cifar.data import load_data
from al_cifar.loop import TOY, outcome
from al_cifar.study import bundle, load_results, run_id, run_study, status
from al_cifar.study.collect import bundled
from al_cifar.study.durable import failed_file, failure, run_one
from al_cifar.study.records import parse_run, read_run
from al_cifar.study.results import save_rounds, tidy_rounds

CONFIGS = [replace(TOY, epochs=1, strategy=name) for name in ("random", "margin")]
SAMPLE, ALL = 200, 10**6
how_many = pytest.mark.parametrize("most", [SAMPLE, pytest.param(ALL, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")/"study"
    run_study(CONFIGS, folder, digits, progress=False)
    return folder


@pytest.fixture
def study(made, tmp_path):
    "A copy of a study of two finished runs, and the file of the first."
    folder = shutil.copytree(made, tmp_path/"study")
    return folder, min(folder.glob("*.jsonl"))


def some(count, most, seed=0):
    "At most so many of the numbers below `count`, in order."
    chosen = np.random.default_rng(seed).permutation(count)[:most]
    return sorted(map(int, chosen))


def cuts(text, most): return ((at, text[:at]) for at in some(len(text), most))


def flips(text, most):
    "Pairs of a bit and the bytes with this bit flipped."
    for bit in some(8*len(text), most):
        flipped = bytearray(text)
        flipped[bit//8] ^= 1 << bit % 8
        yield bit, bytes(flipped)


def campaign(what, changed, look):
    "Count what `look` says of each changed text; anything but a word of it is an error that nobody expected."
    start, counts = monotonic(), Counter(look(*change) for change in changed)
    print(f"\n{what}: {sum(counts.values())}, {dict(sorted(counts.items()))}, {monotonic() - start:.0f} s")
    return counts


# A run file

@how_many
def test_cuts_of_a_run_file(most, study):
    folder, path = study
    text = path.read_bytes()
    head, records = read_run(path)
    def look(at, part):
        path.write_bytes(part)
        whole = part.count(b"\n")
        assert read_run(path) == ((head, records[:whole - 1]) if whole else (None, []))
        if at % 20 and at > 100 and at < len(text) - 100: return "the rounds before the cut"
        state = status(folder)
        assert (state["runs"], state["done"], state["waiting"], state["damaged"]) == (2, 1, 1, {})
        assert len(load_results(folder)) == 3 + max(whole - 1, 0)
        return "the rounds before the cut, by status and load_results too"
    counts = campaign("cuts of a run file", cuts(text, most), look)
    assert sum(counts.values()) == min(most, len(text))


@pytest.mark.parametrize("most", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_run_that_was_cut_is_resumed_to_the_same_bits(most, digits, study):
    _, path = study
    text, expected = path.read_bytes(), outcome(read_run(path)[1])
    [config] = [config for config in CONFIGS if run_id(config, digits) == path.stem]
    def look(at, part):
        path.write_bytes(part)
        run_one(config, digits, path)
        return "the same bits" if outcome(read_run(path)[1]) == expected else "other bits"
    assert {*campaign("cut and resumed", cuts(text, most), look)} == {"the same bits"}


@how_many
def test_flips_of_a_run_file(most, study):
    folder, path = study
    text, every = path.read_bytes(), 400 if most == ALL else 10
    head, records = read_run(path)
    def look(bit, flipped):
        try: found = parse_run(flipped[:flipped.rfind(b"\n") + 1], path)
        except ValueError as error:
            assert f"{path}, line " in str(error)
            found = None
        else:
            if found == (head, records): return "equal"
            assert found == (head, records[:-1]) and bit//8 == len(text) - 1  # the last line lost its end
            return "one round less"
        if bit % every: return "refused"
        path.write_bytes(flipped)
        state = status(folder)  # looks at the first line and the last
        assert state["done"] + len(state["damaged"]) == state["runs"] == 2 and {*state["damaged"]} <= {path.stem}
        with pytest.raises(ValueError, match=path.name): load_results(folder)
        with pytest.warns(UserWarning, match=path.name): assert len(load_results(folder, damaged="skip")) == 3
        return "refused, by load_results too"
    counts = campaign("bits of a run file", flips(text, most), look)
    assert counts["equal"] == 0 and counts["one round less"] <= 8 and sum(counts.values()) == min(most, 8*len(text))


# Bundles, tables

def reader(path, read):
    "A look that writes a text to `path` and reads it: refused, equal or other."
    expected = read(path)
    def look(at, text):
        path.write_bytes(text)
        with warnings.catch_warnings(action="ignore"):
            try: found = read(path)
            except ValueError as error:
                assert path.name in str(error)
                return "refused"
        return "equal" if found == expected else "OTHER VALUES"
    return look


@how_many
@pytest.mark.parametrize("change", [cuts, flips])
def test_damage_of_a_bundle(change, most, study, tmp_path):
    path = bundle(study[0], tmp_path/"study.zip")
    look = reader(path, lambda path: [(name.name, text) for name, text in bundled(path)])
    counts = campaign(f"{change.__name__} of a bundle of {path.stat().st_size} bytes", change(path.read_bytes(), most), look)
    assert {*counts} <= {"refused", "equal"} and counts["refused"]
    if change is cuts: assert not counts["equal"]


@how_many
@pytest.mark.parametrize("change", [cuts, flips])
def test_damage_of_a_table(change, most, study, tmp_path):
    path = save_rounds(tidy_rounds(study[0]), tmp_path/"study.csv.gz")
    look = reader(path, lambda path: load_results(path, measures=True, each_evaluator=True).to_csv())
    counts = campaign(f"{change.__name__} of a table of {path.stat().st_size} bytes", change(path.read_bytes(), most), look)
    assert {*counts} <= {"refused", "equal"} and counts["refused"]
    if change is cuts: assert not counts["equal"]


# What lies beside the runs

@how_many
@pytest.mark.parametrize("change", [cuts, flips])
def test_damage_of_a_plan(change, most, study):
    "A plan that is not as written is no plan: the files themselves say what there is."
    folder, path = study
    path.unlink()
    [plan] = folder.glob(".study/plan-*.json")
    text, whole = plan.read_bytes(), status(folder)
    assert (whole["runs"], whole["rounds"], whole["rounds_planned"]) == (2, 3, 6)
    plan.unlink()
    without = status(folder)
    def look(at, part):
        plan.write_bytes(part)
        state = status(folder)
        return "as without it" if state == without else "OTHER"
    assert {*campaign(f"{change.__name__} of a plan of {len(text)} bytes", change(text, most), look)} == {"as without it"}


@how_many
@pytest.mark.parametrize("change", [cuts, flips])
def test_damage_of_a_failure(change, most, study):
    "The run stays a failed one; the text of the error is for people and has no checksum."
    folder, path = study
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:2]))
    failure(path, ZeroDivisionError("no"))
    text, whole = failed_file(path).read_bytes(), status(folder)
    def look(at, part):
        failed_file(path).write_bytes(part)
        state = status(folder)
        assert state | {"failures": 0} == whole | {"failures": 0} and [*state["failures"]] == [path.stem]
        return "named as damaged" if "is damaged" in state["failures"][path.stem] else "read"
    counts = campaign(f"{change.__name__} of a failure of {len(text)} bytes", change(text, most), look)
    if change is cuts: assert {*counts} == {"named as damaged"}


# Saved data

@pytest.mark.parametrize("most", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_cuts_of_saved_data(most, digits, tmp_path):
    from al_cifar.data.saved import read_data, save_data
    folder = save_data(digits, tmp_path/"data")
    for file in sorted(folder.iterdir()):
        text = file.read_bytes()
        def look(at, part):
            fresh = file.with_suffix(".cut")  # a file that is mapped into memory may not be cut itself
            fresh.write_bytes(part)
            fresh.replace(file)
            try: return "equal" if read_data(folder).fingerprint == digits.fingerprint else "OTHER VALUES"
            except ValueError as error:
                assert str(folder) in str(error)
                return "refused"
        few = [(at, text[:at]) for at in {*range(min(len(text), most//2)), *some(len(text), most//2)}]
        assert {*campaign(f"cuts of {file.name}", few, look)} == {"refused"}
        file.unlink()
        file.write_bytes(text)
    assert save_data(digits, folder) == folder and read_data(folder).fingerprint == digits.fingerprint
