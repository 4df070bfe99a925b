"""Whatever stands in a run file, a bundle or a parameter: it is refused by one kind of error, or it is what it says.

Hypothesis makes the inputs up. `pytest -n 0 -m slow tests/test_properties.py` takes a hundred times as many.
"""
import json
import shutil
import warnings
from contextlib import suppress
from dataclasses import replace
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_cifar.data import load_data
from al_cifar.forms.form import EXPERIMENT, STUDY
from al_cifar.loop import TOY, Config
from al_cifar.study import bundle, load_results, run_study, status, unbundle
from al_cifar.study.collect import bundled
from al_cifar.study.records import as_line, parse_line, parse_run

def examples(count): return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)  # with surrogates, which JSON can hold
SPECIAL = st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**400, -0.0, .5, 1e308, 5e-324, "", "0", "nan", "None", "\0", "\ud800", "a\nb",
                           "=1+1", "x"*200, [], {}, [[]], [{}], {"": None}, True, False, None])
LEAVES = SPECIAL | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(LEAVES, lambda some: st.lists(some, max_size=4) | st.dictionaries(TEXT, some, max_size=4), max_leaves=8)


def same(a, b): return repr(a) == repr(b)  # 1, 1.0 and True differ, and 0.0 and -0.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "The files of three finished runs, by name, and a folder to play in."
    folder = tmp_path_factory.mktemp("made")
    configs = [replace(TOY, epochs=1, strategy=name) for name in ("random", "margin", "kmeans")]
    paths = run_study(configs, folder/"study", load_data("digits"), progress=False)
    return {path.name: path.read_bytes() for path in paths}, folder


def fresh(folder):
    "The folder, empty."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


# Lines and files of runs

def check_line(value):
    line = as_line(value)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert same(parse_line(line[:-1]), (value, True))


def check_file(text):
    "It is refused with its line named, or read as values that make the same file again."
    try: head, records = parse_run(text, "some.jsonl")
    except ValueError as error:
        assert str(error).startswith("some.jsonl, line ")
        return
    values = [value for value in (head, *records) if value is not None]
    assert len(values) == text.count(b"\n")
    plain = lambda value: json.dumps(value).encode() + b"\n"
    make = as_line if head and "format" in head else plain
    assert same(parse_run(b"".join(map(make, values)), ""), (head, records))


@st.composite
def files(draw, made):
    "Bytes, and pieces of a run file in any order."
    [text, *_] = made[0].values()
    lines = text.splitlines(True)
    cut = st.tuples(st.sampled_from(lines), st.integers(0, len(text)), st.integers(0, len(text)))
    piece = st.sampled_from(lines) | cut.map(lambda c: c[0][c[1]:c[2]]) | st.binary(max_size=40) | JSON.map(
        lambda value: json.dumps(value).encode() + b"\n")
    return b"".join(draw(st.lists(piece, max_size=5)))


def places(value, here=()):
    "The path to every value inside a JSON value; of long lists to the first ones only."
    yield here
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, part in inside: yield from places(part, (*here, key))


def put(value, place, new):
    "A copy of `value` with `new` at `place`."
    if not place: return new
    copy = value.copy()
    copy[place[0]] = put(value[place[0]], place[1:], new)
    return copy


def check_replaced(draw, made):
    "One value of a run is replaced: with the old checksum it is refused; with a new one it is refused, or read as it stands."
    name, text = draw(st.sampled_from(sorted(made[0].items())))
    lines = text.splitlines(True)
    number = draw(st.integers(0, len(lines) - 1))
    value, _ = parse_line(lines[number][:-1])
    changed = put(value, draw(st.sampled_from(list(places(value)))), draw(JSON))
    if same(changed, value): return
    written = lambda line: b"".join([*lines[:number], line, *lines[number + 1:]])
    old = json.dumps(changed).encode()[:-1] + lines[number][-len(b', "crc": "01234567"}\n'):]
    with pytest.raises(ValueError, match=f"line {number + 1}: "): parse_run(written(old), "")
    if not isinstance(changed, dict): return
    text = written(as_line(changed))
    with suppress(ValueError):
        head, records = parse_run(text, "")
        assert same([head, *records][number], changed)
    folder = fresh(made[1]/"replaced")
    (folder/name).write_bytes(text)
    for read in (status, load_results, lambda folder: load_results(folder, measures=True, each_evaluator=True),
                 lambda folder: bundle(folder, folder/"all.zip")):
        with suppress(ValueError), warnings.catch_warnings(action="ignore"): read(folder)


# Bundles

NAMES = st.sampled_from(["runs/a.jsonl", "runs/", "README.txt", "results.csv", "runs.csv", "runs/../a.jsonl", "/runs/a.jsonl", "../a.jsonl",
                         "runs/.jsonl", "runs\\a.jsonl", "C:a.jsonl", "runs/con.jsonl", ".study/plan-0.json", "runs/a.failed"])


@st.composite
def archives(draw, made):
    "The bytes of something like a bundle."
    if draw(st.booleans()): return draw(st.binary(max_size=200) | st.binary(max_size=60).map(lambda text: b"PK\3\4" + text + b"PK\5\6"))
    path, text = made[1]/"drawn.zip", st.sampled_from(sorted(made[0].values())) | files(made)
    names = NAMES | TEXT.map(lambda name: f"runs/{name}.jsonl") | st.sampled_from([f"runs/{name}" for name in made[0]])
    entries = draw(st.lists(st.tuples(names, text, st.sampled_from([ZIP_STORED, ZIP_DEFLATED])), max_size=4))
    with warnings.catch_warnings(action="ignore"), ZipFile(path, "w") as archive:
        for name, content, how in entries:
            with suppress(UnicodeEncodeError): archive.writestr(name, content, how)
    return draw(st.just(path.read_bytes()) | st.integers(0, 400).map(lambda cut: path.read_bytes()[:-cut]))


def check_archive(made, content):
    "One kind of error, or runs that stand in a folder as in the archive; no file anywhere else."
    folder = fresh(made[1]/"archive")
    path, target = folder/"some.zip", folder/"deep"/"target"
    path.write_bytes(content)
    texts = {}
    with suppress(ValueError): texts = {name.name: text for name, text in bundled(path)}
    with warnings.catch_warnings(action="ignore"), suppress(ValueError):
        unbundle(path, target)
        for name, text in texts.items(): assert text == b"" or (target/name).read_bytes() == text
    for file in folder.rglob("*"):
        ours = file in (path, target, target.parent) or file.parent in (target, target/".study") or file.name == ".study"
        assert ours, file
        assert file.parent != target or file.name in texts or file.name == ".study"
    with suppress(ValueError), warnings.catch_warnings(action="ignore"): load_results(path)


STATES = st.sampled_from(["absent", "whole", "cut", "flipped", "noise"])


def spoilt(draw, text):
    "The text in some state: how many rounds of it count, None: it is damaged; and the text, None: there is no file."
    state = draw(STATES)
    if state == "absent": return 0, None
    if state == "whole": return text.count(b"\n") - 1, text
    if state == "noise": return None, draw(st.binary(max_size=20)) + b"\n"
    at = draw(st.integers(0, len(text) - 2))
    if state == "cut": return max(text[:at].count(b"\n") - 1, 0), text[:at]
    return None, text[:at] + bytes([text[at] ^ 1 << draw(st.integers(0, 7))]) + text[at + 1:]


def check_mix(draw, made):
    "Of the same runs in two folders, whole, partial and damaged, what is good counts once, and as far as it got."
    folder, most, named = fresh(made[1]/"mix"), {}, {}
    for place in ("a", "b"):
        (folder/place).mkdir()
        for name, text in made[0].items():
            rounds, content = spoilt(draw, text)
            if content is None: continue
            (folder/place/name).write_bytes(content)
            if rounds is None: named[folder/place/name] = name
            else: most[name] = max(most.get(name, 0), rounds)
    everything = [path for path in (folder/"a", folder/"b") if list(path.glob("*.jsonl"))]
    for path in everything:
        state = status(path)
        assert state["runs"] == state["done"] + state["waiting"] + len(state["damaged"]) == len(list(path.glob("*.jsonl")))
        assert {file.stem for file in named if file.parent == path} >= set(state["damaged"])  # status looks at two lines
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        frame = load_results(everything, damaged="skip") if everything else []
    assert len(frame) == sum(most.values())
    for file in named: assert any(str(file) in str(warning.message) for warning in seen)
    if named:
        with pytest.raises(ValueError, match="line "): load_results(everything)
    good = [file for path in everything for file in path.glob("*.jsonl") if file not in named]
    if not sum(most.values()): return
    archive = bundle(good, folder/"all.zip")
    for place in (archive, unbundle(archive, folder/"c")): assert load_results(place).equals(frame)


# Parameters of the forms

FORMS = {"experiment": EXPERIMENT, "study": STUDY}
NAMES_OF = [(form, name) for form, one in FORMS.items() for name in one.parameters if name != "plugins"]  # which are imported
WORDS = st.sampled_from(["none", "true", "0.5", "1e999", "random,margin", "random(", "uniform", "digits", "cifar10", "~", "~x", "a,b", ",", "[1,2]"])
SAID = JSON | WORDS | st.floats() | st.lists(WORDS, max_size=3) | st.tuples(WORDS)
ALSO = {"strategies": "strateg", "strategy": "strateg"}


def check_said(form, name, value):
    "An error that names the parameter, or answers that say the same again."
    form = FORMS[form]
    try: answers = form.read({name: value})
    except ValueError as error:
        assert ALSO.get(name, name) in str(error) and len(str(error)) < 3000
        return
    said = dict(answers.settings)
    said |= {own: getattr(answers, own) for own in form.own if hasattr(answers, own) and own != "plugins"}
    assert same(form.read(said).settings, answers.settings)


def check_field(name, value):
    "An error that names the field, or a config that says what it was told and makes itself again."
    try: config = replace(TOY, **{name: value})
    except ValueError as error:
        assert ALSO.get(name, name) in str(error) and len(str(error)) < 3000
        return
    again = replace(TOY, **{name: getattr(config, name)})
    assert same(config, again) and config == again and hash(config) == hash(again)


FIELDS = sorted(Config.__dataclass_fields__)
SHORT = examples(40)


@SHORT
@given(st.dictionaries(TEXT, JSON))
def test_lines(value): check_line(value)


@SHORT
@given(st.data())
def test_files(made, data): check_file(data.draw(files(made)))


@SHORT
@given(st.data())
def test_replaced_values(made, data): check_replaced(data.draw, made)


@SHORT
@given(st.data())
def test_archives(made, data): check_archive(made, data.draw(archives(made)))


@SHORT
@given(st.data())
def test_mixed_folders(made, data): check_mix(data.draw, made)


@examples(200)
@given(st.sampled_from(NAMES_OF), SAID)
def test_parameters(where, value): check_said(*where, value)


@examples(200)
@given(st.sampled_from(FIELDS), SAID)
def test_fields(name, value): check_field(name, value)


# The same, for long

@pytest.mark.slow
@examples(20_000)
@given(st.dictionaries(TEXT, JSON))
def test_many_lines(value): check_line(value)


@pytest.mark.slow
@examples(20_000)
@given(st.data())
def test_many_files(made, data): check_file(data.draw(files(made)))


@pytest.mark.slow
@examples(3_000)
@given(st.data())
def test_many_replaced_values(made, data): check_replaced(data.draw, made)


@pytest.mark.slow
@examples(3_000)
@given(st.data())
def test_many_archives(made, data): check_archive(made, data.draw(archives(made)))


@pytest.mark.slow
@examples(1_500)
@given(st.data())
def test_many_mixed_folders(made, data): check_mix(data.draw, made)


@pytest.mark.slow
@examples(20_000)
@given(st.sampled_from(NAMES_OF), SAID)
def test_many_parameters(where, value): check_said(*where, value)


@pytest.mark.slow
@examples(20_000)
@given(st.sampled_from(FIELDS), SAID)
def test_many_fields(name, value): check_field(name, value)
