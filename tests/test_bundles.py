"Runs that are read, counted and bundled: each once, under its own name, from archives of strangers too."
import csv
import io
import json
import os
import shutil
import struct
import sys
import tracemalloc
from dataclasses import replace
from time import perf_counter, process_time
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import pandas as pd
import pytest

from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.study import bundle, load_results, read_run, run_id, run_one, run_study, status, unbundle
from al_cifar.study.collect import bundled
from al_cifar.study.durable import durable_rounds, side_file, write_whole
from al_cifar.study.records import as_line
from al_cifar.study.results import save_rounds

FAST = replace(TOY, epochs=1)
CONFIGS = [replace(FAST, strategy=name) for name in ("random", "margin")]


@pytest.fixture(scope="module")
def digits(): return load_data("digits")


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    "A folder of two finished runs, not to be changed."
    folder = tmp_path_factory.mktemp("made")
    run_study(CONFIGS, folder, digits, progress=False)
    return folder


@pytest.fixture
def study(made, tmp_path):
    "A copy of the two runs, and their files."
    folder = shutil.copytree(made, tmp_path/"study")
    return folder, sorted(folder.glob("*.jsonl"))


def zipped(path, **parts):
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, text in parts.items(): archive.writestr(name, text)
    return path


# Bundles

@pytest.mark.parametrize("order", [1, -1])
def test_the_longest_file_of_a_run_is_bundled(order, study, tmp_path):
    folder, (first, _) = study
    partial = tmp_path/"partial"
    partial.mkdir()
    (partial/first.name).write_bytes(b"".join(first.read_bytes().splitlines(True)[:2]))
    archive = bundle([folder, partial][::order], tmp_path/"both.zip")
    texts = {path.name: text for path, text in bundled(archive)}
    assert texts[first.name] == first.read_bytes()
    with ZipFile(archive) as content: table = pd.read_csv(content.open("results.csv"))
    assert len(table) == len(load_results(archive)) == 6


def test_two_runs_under_one_name_are_not_bundled(study, tmp_path):
    _, (first, second) = study
    for name, path in [("a", first), ("b", second)]:
        (tmp_path/name).mkdir()
        shutil.copy(path, tmp_path/name/"run.jsonl")
    with pytest.raises(ValueError, match="run.jsonl.* two different runs"):
        bundle([tmp_path/"a", tmp_path/"b"], tmp_path/"both.zip")
    assert not (tmp_path/"both.zip").exists()


def test_a_bundle_is_read_back(study, tmp_path, monkeypatch):
    module = sys.modules[bundle.__module__]
    spoiled = lambda path, text: write_whole(path, text[:100] + b"\xff\xff" + text[102:])
    monkeypatch.setattr(module, "write_whole", spoiled)
    with pytest.raises(OSError, match="study.zip.* reads back"): bundle(study[0], tmp_path/"study.zip")


@pytest.mark.parametrize("stray", ["runs/cafe\u0301-e0.0-r0.jsonl", "notes.txt", "runs/deep/a.jsonl", "runs/.a.jsonl"])
def test_no_entry_of_a_bundle_is_passed_over(tmp_path, stray):
    archive = zipped(tmp_path/"some.zip", **{"README.txt": "", "runs/a.jsonl": "{}\n", stray: "{}\n"})
    if "\u0301" in stray: assert [path.name for path, _ in bundled(archive)] == ["a.jsonl", stray[5:]]
    else:
        with pytest.raises(ValueError, match="does not belong"): list(bundled(archive))


def test_a_run_is_not_replaced_under_its_writer(digits, study, tmp_path):
    folder, (first, _) = study
    archive, here = bundle(folder, tmp_path/"study.zip"), tmp_path/"here"
    here.mkdir()
    config = next(c for c in CONFIGS if run_id(c, digits) == first.stem)
    rounds = durable_rounds(config, digits, here/first.name)
    next(rounds)
    before = (here/first.name).read_bytes()
    with pytest.raises(RuntimeError, match=f"another process writes this run.*{first.name}"): unbundle(archive, here)
    assert sorted(path.name for path in here.glob("*.jsonl")) == [first.name]
    assert (here/first.name).read_bytes() == before
    list(rounds)  # its writer goes on
    assert unbundle(archive, here) and len(load_results(here)) == 6


# Archives of strangers

def test_an_entry_is_read_up_to_a_cap(tmp_path):
    archive = zipped(tmp_path/"bomb.zip", **{"runs/a.jsonl": b" "*(300*2**20)})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="bomb.zip.*runs/a.jsonl.*at most"): list(bundled(archive))
        assert tracemalloc.get_traced_memory()[1] < 150*2**20
    finally: tracemalloc.stop()


def changed(path, offset, value, size="<H"):
    "Write a number into both headers of the archive's only entry: at `offset` of the local one."
    text = bytearray(path.read_bytes())
    struct.pack_into(size, text, offset, value)
    struct.pack_into(size, text, text.rfind(b"PK\1\2") + offset + 2, value)
    path.write_bytes(text)


def moved_directory(path):
    "Say that the table of contents is behind the end of the archive."
    text = bytearray(path.read_bytes())
    at = text.rfind(b"PK\5\6") + 16
    struct.pack_into("<I", text, at, struct.unpack_from("<I", text, at)[0] + 2**20)
    path.write_bytes(text)


@pytest.mark.parametrize("spoil", [
    lambda path: changed(path, 6, 1),             # encrypted: RuntimeError
    lambda path: changed(path, 8, 99),            # an unknown method: NotImplementedError
    lambda path: changed(path, 4, 99),            # of a later version
    lambda path: changed(path, 14, 7, "<I"),      # another checksum
    lambda path: changed(path, 18, 9, "<I"),      # a shorter entry: EOFError
    lambda path: changed(path, 22, 2**31, "<I"),  # a longer text
    lambda path: path.write_bytes(path.read_bytes()[:40] + b"\xff"*8 + path.read_bytes()[48:]),  # zlib.error
    lambda path: moved_directory(path),           # OSError: a place in front of the file
    lambda path: path.write_bytes(path.read_bytes()[:-9]),
    lambda path: path.write_bytes(b"")])
def test_every_error_of_an_archive_is_one(spoil, tmp_path):
    archive = zipped(tmp_path/"some.zip", **{"runs/a.jsonl": bytes(range(256))*20})
    spoil(archive)
    with pytest.raises(ValueError, match="some.zip is damaged, or no bundle"): list(bundled(archive))


def test_other_compressions_and_doubles_are_refused(tmp_path):
    with ZipFile(tmp_path/"a.zip", "w", ZIP_BZIP2) as archive: archive.writestr("runs/a.jsonl", b" "*2**20)
    with pytest.raises(ValueError, match="a.zip .*deflated"): list(bundled(tmp_path/"a.zip"))
    with ZipFile(tmp_path/"b.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2): archive.writestr("runs/a.jsonl", "{}\n")
    with pytest.raises(ValueError, match="b.zip .*twice"): list(bundled(tmp_path/"b.zip"))


NASTY = ["=1+1", "a\r=1", "+1", "-1", "@x", "\tx", "\rx", "'=x", "'x", "plain"]

@pytest.mark.parametrize("text", NASTY)
def test_cells_are_no_formulas(text, study, tmp_path):
    folder, (first, _) = study
    head, records = read_run(first)
    head["dataset"] = head["engine"] = text
    path = tmp_path/"own.jsonl"
    path.write_bytes(b"".join(map(as_line, [head, *records])))
    archive, frame = bundle(path, tmp_path/"own.zip"), load_results(path)
    assert set(frame.dataset) == {text}
    with ZipFile(archive) as content:
        for name in ("results.csv", "runs.csv"):
            lines = csv.DictReader(content.read(name).decode().splitlines() if "\r" not in text else
                                   content.open(name).read().decode().split("\n"))
            for row in lines: assert row["dataset"][:1] not in tuple("=+-@\t\r"), name
    table = save_rounds(frame, tmp_path/"own.csv")
    assert set(load_results(table).dataset) == set(load_results(archive).dataset) == {text}


# Names

def test_a_copy_under_another_runs_name_is_not_counted(study, tmp_path):
    folder, (first, second) = study
    shutil.copy(second, first)
    with pytest.warns(UserWarning, match=f"{first.name}.*{second.stem}"): frame = load_results(folder)
    assert len(frame) == 3
    state = status(folder)
    assert [state[key] for key in ("runs", "done", "waiting")] == [2, 1, 0]
    assert list(state["damaged"]) == [first.stem] and second.stem in state["damaged"][first.stem]
    bad = zipped(tmp_path/"bad.zip", **{f"runs/{first.name}": second.read_bytes()})
    with pytest.raises(ValueError, match=f"{first.name}.*{second.stem}"): unbundle(bad, tmp_path/"new")
    assert not list(tmp_path.glob("new/*.jsonl"))
    good = zipped(tmp_path/"good.zip", **{f"runs/{second.name}": second.read_bytes()})
    shutil.copy(second, folder/"copy.jsonl")
    shutil.rmtree(folder/".study")
    first.unlink()
    state = status(folder)  # nothing is planned
    assert (state["runs"], state["done"], list(state["strays"])) == (1, 1, ["copy.jsonl"])
    assert len(load_results(folder)) == len(load_results(unbundle(good, tmp_path/"new"))) == 3


def test_the_file_of_the_right_name_counts(study):
    folder, (first, second) = study
    full = first.read_bytes()
    second.write_bytes(full)
    first.write_bytes(b"".join(full.splitlines(True)[:3]))
    with pytest.warns(UserWarning, match=second.name): assert len(load_results(folder)) == 2


# Damage

def bad_link(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def folder_instead(path):
    path.unlink()
    path.mkdir()


DAMAGE = {  # of the file of one run
    "empty header": lambda path: path.write_bytes(b"\n"), "NUL": lambda path: path.write_bytes(b"\0"*500 + b"\n"),
    "list": lambda path: path.write_bytes(b"[]\n"), "no JSON": lambda path: path.write_bytes(b"{]\n"),
    "no config": lambda path: path.write_bytes(b"{}\n"),
    "wrong config": lambda path: path.write_bytes(b'{"config": 1, "fingerprint": "", "streams": 1}\n'),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\n"),
    "bit": lambda path: path.write_bytes(path.read_bytes().replace(b'"round": 2', b'"round": 0')),
    "too many": lambda path: path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(True)[-1]),
    "dangling": bad_link}


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_the_state_of_one_file(spoil, planned, study):
    folder, (first, second) = study
    if not planned: shutil.rmtree(folder/".study")
    spoil(first)
    state = status(folder)
    assert [state[key] for key in ("runs", "done", "running", "failed", "waiting")] == [2, 1, 0, 0, 0]
    assert list(state["damaged"]) == [first.stem] and first.name in state["damaged"][first.stem]
    with pytest.raises((ValueError, OSError), match=first.name): load_results(folder)
    with pytest.warns(UserWarning, match=first.name): assert len(load_results(folder, damaged="skip")) == 3
    with pytest.raises(ValueError, match="damaged must be"): load_results(folder, damaged="maybe")


def plan(text): return lambda folder: side_file(folder/"x", "plan-0.json").write_bytes(text)
def stray(name, text=b"x"): return lambda folder: (folder/name).write_bytes(text)
def lock_folder(folder):
    for path in [*folder.glob("*.jsonl")]:
        lock = side_file(path, f"{path.stem}.lock")
        lock.unlink(missing_ok=True)
        lock.mkdir()
def no_side_folder(folder):
    shutil.rmtree(folder/".study")
    (folder/".study").write_text("")


STRAYS = {
    "another system": stray("._x.jsonl", b"\0\5\x16\7"), "hidden": stray(".x.jsonl"), "text": stray("x.txt"),
    "no plan": plan(b""), "list": plan(b"[1]"), "null": plan(b"null"), "broken": plan(b'{"a'),
    "not UTF-8": plan(b"\xff"), "numbers": plan(b'{"x.jsonl": "3", "y.jsonl": -1, "z": 3}'),
    "folder": lambda folder: (folder/"x.jsonl").mkdir(), "plan folder": lambda f: (f/".study/plan-1.json").mkdir(),
    "lock folder": lock_folder, "no folder for locks": no_side_folder, "failed": stray("x.failed", b"{")}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("spoil", STRAYS.values(), ids=STRAYS)
def test_strays_do_not_count(spoil, cut, study):
    folder, (first, _) = study
    if cut:
        first.write_bytes(b"".join(first.read_bytes().splitlines(True)[:2]))
        first.with_suffix(".failed").write_bytes(b"[")  # damaged, too
    spoil(folder)
    state = status(folder)
    assert [state[key] for key in ("runs", "done", "running", "failed", "waiting")] == [2, 2 - cut, 0, int(cut), 0]
    assert state["rounds"] == 6 - 2*cut and state["damaged"] == {}
    assert len(load_results(folder)) == 6 - 2*cut


# Oracles

def test_results_name_the_oracle(study, tmp_path):
    frame = load_results(study[0])
    assert set(frame.oracle) == {"uniform"}
    table = save_rounds(frame.drop(columns="oracle"), tmp_path/"before.csv")
    assert load_results(table).oracle.tolist() == frame.oracle.tolist()


# Speed

def made_runs(many, digits, tmp_path):
    "A folder with files of `many` runs, each of 20 records: one run that was done, under other numbers."
    config = replace(FAST, initial=20, budget=400, batch=20)
    run_one(config, digits, tmp_path/"one.jsonl")
    head, records = read_run(tmp_path/"one.jsonl")
    assert len(records) == 20
    lines = b"".join(map(as_line, records))
    folder = tmp_path/"many"
    folder.mkdir()
    for number in range(many):
        changed = {**head, "config": {**head["config"], "replication": number}}
        name = run_id(replace(config, replication=number), digits)
        (folder/f"{name}.jsonl").write_bytes(as_line(changed) + lines)
    return folder


def cost(call):
    "Seconds of the processor that a call takes."
    start = process_time()
    call()
    return process_time() - start


@pytest.mark.slow
def test_loading_costs_what_json_costs_a_few_times(digits, tmp_path):
    folder = made_runs(2_000, digits, tmp_path)
    lines = [line for path in folder.iterdir() if path.suffix == ".jsonl" for line in path.read_bytes().splitlines()]
    def parse():
        for line in lines: json.loads(line)
    bare, load = (min(cost(call) for _ in range(3)) for call in (parse, lambda: load_results(folder)))
    print(f"load_results takes {load/bare:.1f} times as long as json.loads of the same lines")
    assert load < 5*bare  # 3.5 on a busy machine


@pytest.mark.slow
def test_bookkeeping_of_20_000_runs(digits, tmp_path):
    import resource
    many = 20_000
    folder = made_runs(many, digits, tmp_path)

    def timed(what, call):
        start, work = perf_counter(), process_time()
        result = call()
        passed, work = perf_counter() - start, process_time() - work
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
        print(f"{what}: {work:.1f} s of the processor, {passed:.1f} s passed, at most {peak} MB so far")
        return result

    state = timed("status", lambda: status(folder))
    assert (state["runs"], state["done"]) == (many, many)
    assert len(timed("load_results", lambda: load_results(folder))) == 20*many
    archive = timed("bundle", lambda: bundle(folder, tmp_path/"many.zip"))
    timed("unbundle", lambda: unbundle(archive, tmp_path/"again"))
    assert len(os.listdir(tmp_path/"again")) == many + 1
