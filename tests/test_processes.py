"What a strategy may raise, and what becomes of processes: nothing is mistaken for something else, and nothing is left behind."
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
from al_cifar.strategies import register, top_k
from al_cifar.study import StudyError, grid, process_pool, run_study


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
    from al_cifar.strategies import STRATEGIES
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
