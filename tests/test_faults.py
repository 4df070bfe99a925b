"""Studies under fire: workers and parents killed at random, lines torn, disks full, Ctrl-C, two at once.

The outcome must be that of an undisturbed study, to the last bit. The short version kills a few times; `pytest -n 0 -m slow
tests/test_faults.py -s` kills 30 times and prints what happened.
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil  # comes with ipykernel
import pytest

from al_cifar.data import load_data
from al_cifar.loop import TOY, Config, outcome
from al_cifar.study import StudyError, grid, load_results, process_pool, read_run, run_study, status

LONGER = replace(TOY, budget=80, batch=10, epochs=3)  # seven rounds

# A study in a process of its own, to be killed: python -c SCRIPT out_dir executor replications strategies
SCRIPT = """
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
import numpy as np
from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.strategies import register, top_k
from al_cifar.study import grid, process_pool, run_study

@register("toy_margin", needs=("probs",))
def toy_margin(view, k, g):
    second, best = np.sort(view.probs, axis=1)[:, -2:].T
    return top_k(second - best, view.priority, k)

def main(out_dir, kind, replications, epochs):
    base = replace(TOY, budget=80, batch=10, epochs=epochs)
    configs = grid(base, strategy=["random", "kmeans", "toy_margin"], replication=range(replications))
    with ExitStack() as stack:
        if kind == "pool": executor = stack.enter_context(process_pool(2))
        elif kind == "dask":
            from dask.distributed import Client, LocalCluster
            cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
            cluster.adapt(minimum=2, maximum=2)  # without it, Dask gives a worker up that is away for 15 seconds
            executor = stack.enter_context(Client(cluster)).get_executor()
        else: executor = None
        run_study(configs, out_dir, load_data("digits"), executor=executor)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start deaf to it
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
"""


def outcomes(folder):
    "Records of every run in `folder` without their timings."
    return {path.name: outcome(read_run(path)[1]) for path in sorted(Path(folder).glob("*.jsonl"))}


def rounds_on_disk(folder): return sum(path.read_bytes().count(b"\n") - 1 for path in Path(folder).glob("*.jsonl"))


class Study:
    "A study in a process of its own, whose output goes to a file."
    def __init__(self, folder, kind="pool", replications=2, epochs=3):
        self.script, self.folder, self.log = folder/"script.py", folder/"study", folder/"log.txt"
        folder.mkdir(exist_ok=True)
        self.script.write_text(SCRIPT)
        self.rounds = 3*replications*7
        self.command = [sys.executable, *map(str, [self.script, self.folder, kind, replications, epochs])]
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)

    def family(self): return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self):
        "Its worker processes: those below the parent that have torch loaded."
        def is_worker(process):
            try: return "spawn_main" in " ".join(process.cmdline()) and process.memory_info().rss > 2e8
            except psutil.Error: return False
        return [process for process in self.family() if is_worker(process)]

    def until(self, rounds):
        "Wait for so many rounds on disk, or for the end."
        while rounds_on_disk(self.folder) < rounds and self.process.poll() is None: time.sleep(.005)

    def wait(self, timeout=600): return self.process.wait(timeout)


def undisturbed(folder, **arguments):
    study = Study(folder, kind="serial", **arguments)
    assert study.wait() == 0, study.log.read_text()
    return outcomes(study.folder)


@pytest.fixture(scope="module")
def expected(tmp_path_factory): return undisturbed(tmp_path_factory.mktemp("faults")/"undisturbed", replications=1)


def bombard(study, kills, seed, parents=.25):
    "Kill workers, and parents, `kills` times at random moments between and within rounds; then let it finish."
    g, happened = random.Random(seed), Counter()
    while happened["workers"] + happened["parents"] < kills:
        study.until(rounds_on_disk(study.folder) + g.randint(0, 3))
        time.sleep(g.random()*.2)
        assert rounds_on_disk(study.folder) < study.rounds, f"it was over before it was killed often enough: {happened}"
        if study.process.poll() is not None:
            happened["restarts after giving a run up"] += 1
            study.start()
        elif g.random() < parents:
            workers = study.family()
            study.process.kill()
            study.process.wait()
            assert not psutil.wait_procs(workers, timeout=30)[1], "workers outlive their parent"
            happened["parents"] += 1
            study.start()
        elif workers := study.workers():
            g.choice(workers).kill()
            happened["workers"] += 1
    if study.wait() != 0:
        happened["restarts after giving a run up"] += 1
        study.start()
    assert study.wait() == 0, study.log.read_text()
    return dict(happened)


@pytest.mark.parametrize("kind", ["pool", "dask"])
def test_a_few_kills(kind, tmp_path, expected):
    if kind == "dask": pytest.importorskip("distributed")
    study = Study(tmp_path/kind, kind, replications=1)
    study.until(2)
    bombard(study, kills=2, seed=2, parents=.5 if kind == "pool" else 0)
    assert outcomes(study.folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pool", "dask"])
def test_thirty_kills(kind, tmp_path):
    if kind == "dask": pytest.importorskip("distributed")
    expected, start = undisturbed(tmp_path/"undisturbed", replications=6), time.monotonic()
    study = Study(tmp_path/kind, kind, replications=6)
    happened = bombard(study, kills=30, seed=1)
    took = time.monotonic() - start
    print(f"\n{kind}: 30 SIGKILLs {happened} in a study of {len(expected)} runs, {took:.0f} s")
    assert outcomes(study.folder) == expected
    assert status(study.folder)["done"] == len(expected) == 18
    assert not list(study.folder.glob("*.failed"))


def test_ctrl_c_stops_workers_at_once_and_says_how_to_resume(tmp_path):
    "A real SIGINT to parent and workers, as a terminal sends it, in the middle of long rounds."
    study = Study(tmp_path/"pool", "pool", replications=1, epochs=3000)
    while len(study.workers()) < 2 or not list(study.folder.glob("*.jsonl")): time.sleep(.05)
    workers, start = study.family(), time.monotonic()
    os.killpg(study.process.pid, signal.SIGINT)
    try: assert study.wait(30) != 0
    finally: study.process.kill()
    assert time.monotonic() - start < 10 and not psutil.wait_procs(workers, timeout=10)[1]
    assert "of 3 runs are finished" in study.log.read_text() and "the same call goes on" in study.log.read_text()


def test_two_processes_share_a_study(tmp_path, expected):
    first = Study(tmp_path/"pool", "pool", replications=1)
    second = Study(tmp_path/"pool", "serial", replications=1)
    assert (first.wait(), second.wait()) == (0, 0), first.log.read_text()
    assert outcomes(first.folder) == expected


def test_torn_lines(tmp_path):
    "Cut every run file somewhere, as a machine does that loses power: the outcome is the same."
    configs = grid(LONGER, strategy=["random", "kmeans"], replication=range(2))
    data, g = load_data("digits"), random.Random(0)
    paths = run_study(configs, tmp_path, data, progress=False)
    expected = outcomes(tmp_path)
    for path in paths:
        text = path.read_bytes()
        path.write_bytes(text[:g.randrange(len(text))])
        assert len(load_results(paths)) < 4*7
    paths[0].write_bytes(b"")
    run_study(configs, tmp_path, data, progress=False)
    assert outcomes(tmp_path) == expected


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 64 kB; only root may mount one."
    disk = tmp_path/"disk"
    disk.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if not done or done.returncode: pytest.skip("may not mount a file system here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_full_disk(small_disk, workers):
    "It ends with a clear error, keeps what it has, and goes on when there is room."
    base = Config(dataset="digits", initial=20, budget=400, batch=20, epochs=1)  # 12 kB a run
    configs, data = grid(base, strategy=["random", "kmeans"]), load_data("digits")
    (small_disk/"ballast").write_bytes(b"x"*48*1024)
    executor = process_pool(workers) if workers else None
    with pytest.raises(StudyError, match="No space left.*Make room: .*the same call goes on from there"):
        run_study(configs, small_disk/"study", data, executor=executor, progress=False)
    rounds = rounds_on_disk(small_disk/"study")
    assert len(load_results(small_disk/"study")) == rounds and 0 < rounds < 2*20
    (small_disk/"ballast").unlink()
    paths = run_study(configs, small_disk/"study", data, executor=executor, progress=False)
    if executor: executor.shutdown()
    assert rounds_on_disk(small_disk/"study") == 2*20 and not list((small_disk/"study").glob("*.failed"))
    assert [len(read_run(path)[1]) for path in paths] == [20, 20]
