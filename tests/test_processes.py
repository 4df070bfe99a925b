"What a strategy may raise, and what becomes of processes: nothing is mistaken for something else, and nothing is left behind."
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from threading import Lock

import psutil  # comes with ipykernel
import pytest

from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.strategies import STRATEGIES, register, top_k
from al_cifar.study import StudyError, grid, process_pool, run_study, status


class Unprintable(Exception):
    def __str__(self): raise RuntimeError("no text")
    __repr__ = __str__


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = Lock()  # which cannot be pickled


RAISED = {"exit": SystemExit(3), "interrupt": KeyboardInterrupt("mine"), "leave": GeneratorExit(),
          "mute": Unprintable(), "huge": ValueError("x"*10**7),
          "group": ExceptionGroup("two", [ValueError("a"), KeyError("b")])}


def raising(error):
    def strategy(view, k, g): raise error
    return strategy


def raising_local(view, k, g): raise Unpicklable("here")  # made in the worker: it could not travel there


@pytest.fixture
def awkward():
    "Names of strategies that raise: they are registered for one test."
    for name, error in RAISED.items(): register(f"raises_{name}", version="1")(raising(error))
    register("raises_local", version="1")(raising_local)
    names = [f"raises_{name}" for name in [*RAISED, "local"]]
    yield names
    for name in names: STRATEGIES.components.pop(name, None)


def check_failures(folder, names, executor=None):
    configs = grid(TOY, strategy=[*names, "random"])
    with pytest.raises(StudyError) as caught:
        run_study(configs, folder, load_data("digits"), executor=executor, progress=False)
    failures = caught.value.failures
    assert len(failures) == len(names)
    kinds = sorted(facts["error"].split(":")[0] for facts in failures.values())
    assert kinds == sorted([*(type(error).__name__ for error in RAISED.values()), "Unpicklable"])
    assert all(len(facts["error"]) < 3000 for facts in failures.values())
    assert not any("memory" in facts["error"] for facts in failures.values())
    assert len(list(folder.glob("*.failed"))) == len(names)
    assert len(list(folder.glob("*.jsonl"))) == len(configs)


def test_whatever_a_strategy_raises_is_its_runs_failure_here(tmp_path, awkward): check_failures(tmp_path, awkward)


@pytest.mark.parametrize("kind", ["exit", "interrupt", "leave", "mute"])
def test_whatever_a_strategy_raises_is_its_runs_failure_in_lockstep(kind, tmp_path, awkward):
    configs = grid(replace(TOY, epochs=1, budget=40), strategy=[f"raises_{kind}", "random"])
    with pytest.warns(UserWarning, match="a cohort of 2 runs failed, each goes on alone"), pytest.raises(StudyError) as caught:
        run_study(configs, tmp_path, load_data("digits"), progress=False, cohort=2)
    assert [run.split("-")[0] for run in caught.value.failures] == [f"raises_{kind}"]
    assert status(tmp_path)["done"] == 1


@pytest.mark.parametrize("cohort", [1, 2])
def test_a_signal_ends_the_study(cohort, tmp_path):
    "A strategy's own KeyboardInterrupt is its failure (above); a Ctrl-C that comes meanwhile is the user's."
    @register("signals", version="1")
    def signals(view, k, g): signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    configs = grid(replace(TOY, epochs=1), strategy=["signals", "random"])
    try:
        with pytest.raises(KeyboardInterrupt, match="interrupted: 0 of 2 runs are finished"):
            run_study(configs, tmp_path, load_data("digits"), progress=False, cohort=cohort)
    finally:
        signal.signal(signal.SIGINT, before)
        STRATEGIES.components.pop("signals")
    assert not list(tmp_path.glob("*.failed"))


def test_whatever_a_strategy_raises_is_its_runs_failure_in_a_pool(tmp_path, awkward):
    with process_pool(2) as pool: check_failures(tmp_path, awkward, pool)


SCRIPT = """
import os, signal, sys, time
from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.strategies import register, top_k
from al_cifar.study import grid, process_pool, run_study

@register("holds")
def holds(view, k, g):
    open(sys.argv[1] + f"/pid-{os.getpid()}", "w").close()
    pow(3, 3**18)  # many minutes in C, and the interpreter with it
    return top_k(view.priority, view.priority, k)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with process_pool(2) as pool:
        configs = grid(TOY, strategy=["holds"], replication=range(2))
        run_study(configs, sys.argv[1] + "/study", load_data("digits"), executor=pool)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_workers_that_hold_the_interpreter_end_with_the_parent(tmp_path, kill):
    script = tmp_path/"script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.DEVNULL)
    workers = []
    try:
        start = time.monotonic()
        while len(workers) < 2:
            assert parent.poll() is None and time.monotonic() - start < 120
            time.sleep(.1)
            workers = [psutil.Process(int(path.name[4:])) for path in tmp_path.glob("pid-*")]
        time.sleep(.5)
        parent.send_signal(kill)
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert not alive
        parent.wait(5)
    finally:
        for process in [parent, *workers]:
            try: process.kill()
            except psutil.NoSuchProcess: pass
        parent.wait()


def test_a_script_without_its_main_line_is_told_so_once(tmp_path):
    script = tmp_path/"script.py"
    script.write_text("from al_cifar.data import load_data\nfrom al_cifar.loop import TOY\n"
                      "from al_cifar.study import process_pool, run_study\n"
                      "with process_pool(2) as pool:\n"
                      f"    run_study([TOY], {str(tmp_path/'study')!r}, load_data('digits'), executor=pool)\n")
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert sum("__main__" in line for line in lines) == 1 and len(lines) < 40
    assert 'if __name__ == "__main__":' in lines[-1]


@pytest.mark.slow
def test_a_strategy_that_kills_its_worker_starves_nobody(tmp_path):
    "Its worker dies before the others can finish a round: they end well, and it alone fails."
    @register("kills", version="1")
    def kills(view, k, g):
        time.sleep(.2)
        os.kill(os.getpid(), signal.SIGKILL)
    @register("long_round", version="1")
    def long_round(view, k, g):
        time.sleep(2)
        return top_k(view.priority, view.priority, k)
    configs = [*grid(TOY, strategy=["long_round"], replication=range(2)), replace(TOY, strategy="kills")]
    with process_pool(2) as pool, pytest.raises(StudyError) as caught:
        run_study(configs, tmp_path, load_data("digits"), executor=pool, progress=False)
    [(run, facts)] = caught.value.failures.items()
    assert "kills" in run and "out of memory perhaps" in facts["error"]


# Memory and files that run out: in processes of their own, which limit themselves

HUNGRY = """
import ctypes, json, resource, sys
from dataclasses import replace
import numpy as np
import torch
from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.strategies import register
from al_cifar.study import StudyError, grid, process_pool, run_study, status

def limit(more):
    "From now on this process gets so many bytes more, and none behind them."
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages*resource.getpagesize() + more, resource.RLIM_INFINITY))

def lists():
    held = []
    while True: held.append(bytearray(2**20))
def crumbs():
    "Takes the last byte: what handles the error has nothing left, if the frame that holds all this stays."
    held, size = [], 2**24
    while size:
        try:
            while True: held.append(bytearray(size))
        except MemoryError: size //= 2
    while True: held.append([held])
def arrays():
    held = []
    while True: held.append(np.ones(2**20))
def tensors():
    held = []
    while True: held.append(torch.ones(2**20))
def aborts():
    "Native code that does not handle its own want of memory ends the process."
    new = ctypes.CDLL("libstdc++.so.6")._Znwm
    new(ctypes.c_size_t(2**40))

EATERS = {f.__name__: f for f in (lists, crumbs, arrays, tensors, aborts)}

def eats(view, k, g, *, what: str = ""):
    limit(2**28)
    try: EATERS[what]()
    finally: limit(2**34)  # the worker that survives has other runs to do

if __name__ == "__main__":
    register("eats", version="1")(eats)
    names = [f"eats(what='{name}')" for name in sys.argv[3].split()]
    configs = grid(replace(TOY, epochs=1), strategy=[*names, "random", "margin"])
    pool = process_pool(2) if sys.argv[2] == "pool" else None
    try: run_study(configs, sys.argv[1], load_data("digits"), executor=pool, progress=False)
    except StudyError as error: print(json.dumps({run: facts["error"] for run, facts in error.failures.items()}))
"""
needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc as Linux has them")


def fed(folder, kind, names):
    "Errors, by what was eaten, of a study with hungry strategies and two innocents, which all end well."
    script = folder/"script.py"
    script.write_text(HUNGRY)
    command = [sys.executable, str(script), str(folder/"study"), kind, " ".join(names)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    state = status(folder/"study")
    assert (state["runs"], state["done"], state["failed"]) == (len(names) + 2, 2, len(names)), ended.stdout
    errors = json.loads(ended.stdout.splitlines()[-1])
    return {name: next(error for run, error in errors.items() if name in run) for name in names}


@needs_limits
def test_a_strategy_without_memory_is_its_runs_failure_here(tmp_path):
    assert fed(tmp_path, "here", ["crumbs"])["crumbs"].startswith("MemoryError")


@needs_limits
@pytest.mark.slow
def test_a_worker_without_memory_fails_its_run_alone(tmp_path):
    "Only where a process died is memory a guess; what is known is said."
    errors = fed(tmp_path, "pool", ["lists", "crumbs", "arrays", "tensors", "aborts"])
    print(errors)
    assert errors["lists"].startswith("MemoryError") and errors["crumbs"].startswith("MemoryError")
    assert "MemoryError: Unable to allocate" in errors["arrays"] and "can't allocate memory" in errors["tensors"]
    assert [name for name, error in errors.items() if "out of memory perhaps" in error] == ["aborts"]
    assert "its worker died 5 times" in errors["aborts"]


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[4]), int(sys.argv[4])))
from dataclasses import replace
from al_cifar.data import load_data
from al_cifar.loop import TOY
from al_cifar.study import bundle, grid, load_results, process_pool, run_study, status, unbundle

if __name__ == "__main__":
    folder, kind, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    configs = grid(replace(TOY, epochs=1, budget=40), replication=range(runs))
    pool = process_pool(2) if kind == "pool" else None
    paths = run_study(configs, folder + "/study", load_data("digits"), executor=pool, progress=False,
                      cohort=runs if kind == "cohort" else None)
    state = status(folder + "/study")
    assert (state["runs"], state["done"], state["failed"]) == (runs, runs, 0), state
    again = unbundle(bundle(paths, folder + "/all.zip"), folder + "/again")
    assert len(load_results(folder + "/study")) == len(load_results(paths)) == len(load_results(again)) == 2*runs
"""
FEW = [("cohort", 6, 104), *(pytest.param(kind, 300, 256, marks=pytest.mark.slow) for kind in ("pool", "cohort", "here"))]


@needs_limits
@pytest.mark.parametrize("kind, runs, files", FEW)
def test_few_open_files(kind, runs, files, tmp_path):
    "Many runs where a process may hold few files open: all end, without a word, and so does all bookkeeping."
    start, script = time.monotonic(), tmp_path/"script.py"
    script.write_text(FEW_FILES)
    command = [sys.executable, str(script), str(tmp_path), kind, str(runs), str(files)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    print(f"{kind}: {runs} runs at {files} open files: {time.monotonic() - start:.0f} s")
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr[-3000:]
