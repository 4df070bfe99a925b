"The literal README command in a terminal, in a script and in CI, on a stand-in template in a made-up checkout."
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

PARAMETERS = "epsilon = 0.0"
SPEAKS = """import sys, time, warnings
from pathlib import Path
from tqdm import tqdm
warnings.warn("embedded digits instead of CIFAR-10")
print("epsilon is", epsilon)
if epsilon == "boom": raise ValueError("no such epsilon")
for _ in tqdm(range(3), desc="rounds"): time.sleep(.05)"""
# the test lets the notebook end only after it has seen the warning
WAITS = """for _ in range(600):
    if Path("go").exists(): break
    time.sleep(.1)
else: raise TimeoutError("nobody saw the warning")
print("summary: done")"""
COMMAND = [str(Path(sys.executable).with_name("papermill"))]


@pytest.fixture
def folder(tmp_path):
    "A folder that looks like a checkout, with a template that warns, prints and shows progress."
    cells = [v4.new_code_cell(text) for text in (PARAMETERS, SPEAKS, WAITS)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    (tmp_path/"nbs").mkdir()
    (tmp_path/"settings.ini").write_text("lib_path = al_cifar\n")
    for name in ("run_experiment.ipynb", "another.ipynb"):
        nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path/"nbs"/name)
    return tmp_path


def watch(fd, folder, process):
    "All that arrives at `fd` until `process` ends; the notebook is let go once its warning is seen."
    seen, deadline = "", time.time() + 90
    while time.time() < deadline:
        try: chunk = os.read(fd, 65536)
        except OSError: chunk = b""  # Linux: the last process has left the terminal
        if not chunk: break
        seen += chunk.decode(errors="replace")
        if "embedded digits" in seen and "rounds: 100%" in seen:
            assert process.poll() is None
            (folder/"go").touch()
    return process.wait(timeout=30), seen


def run(folder, *args, command=COMMAND, stdin="null", stdout="tty", notebook="nbs/run_experiment.ipynb"):
    "papermill in `folder`; what its terminal (or, without one, its stderr) shows comes back with the exit code."
    reader, writer = os.openpty() if stdout == "tty" else os.pipe()
    shut = []
    if stdin == "null": source = subprocess.DEVNULL
    elif stdin == "tty": source = writer
    elif stdin == "fifo":
        source, feed = os.pipe()
        shut = [source, feed]
    else: source, command = None, ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    target = writer if stdout == "tty" else open(folder/"stdout", "wb")
    process = subprocess.Popen([*command, notebook, *args], cwd=folder, stdin=source, stdout=target, stderr=writer)
    for fd in [writer, *shut]: os.close(fd)
    try: return watch(reader, folder, process)
    finally:
        process.kill()
        os.close(reader)


def injected(path): return nbformat.read(path, 4).cells[1].source


@pytest.mark.parametrize("stdin,stdout", [("tty", "tty"), ("null", "tty"), ("fifo", "tty"), ("closed", "tty"),
                                          ("null", "file"), ("fifo", "file"), ("closed", "file")])
def test_literal_command(folder, stdin, stdout):
    template = folder/"nbs/run_experiment.ipynb"
    before = template.read_bytes()
    code, seen = run(folder, "-p", "epsilon", "0.1", stdin=stdin, stdout=stdout)
    assert code == 0, seen
    assert "epsilon = 0.1" in injected(folder/"runs/run_experiment.out.ipynb")
    assert "epsilon is 0.1" in seen and "summary: done" in seen
    assert "Executing Cell" not in seen and seen.count("UserWarning: embedded digits") == 1
    assert template.read_bytes() == before


def test_parameters_are_judged_by_the_form(folder):
    "papermill knows only what the parameters cell lists, and says so; our forms know better."
    said = ["-p", "lr", "3e-4"]
    code, seen = run(folder, *said)
    assert code == 0 and "lr = 0.0003" in injected(folder/"runs/run_experiment.out.ipynb"), seen
    assert "unknown parameter" not in seen
    done = subprocess.run([*COMMAND, "nbs/another.ipynb", "out.ipynb", *said, "--prepare-only"], cwd=folder,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert "unknown parameter: lr" in done.stderr


def test_run_as_module(folder):
    code, seen = run(folder, "-p", "epsilon", "0.1", command=[sys.executable, "-m", "papermill"])
    assert code == 0, seen
    assert (folder/"runs/run_experiment.out.ipynb").exists()


def test_explicit_paths_are_kept(folder):
    code, seen = run(folder, "mine.ipynb", "-p", "epsilon", "0.1")
    assert code == 0, seen
    assert "epsilon = 0.1" in injected(folder/"mine.ipynb") and not (folder/"runs").exists()
    code, seen = run(folder, "-", "-p", "epsilon", "0.15", stdout="file")
    assert code == 0, seen
    assert "epsilon = 0.15" in injected(folder/"stdout") and not (folder/"runs").exists()


def test_failure_is_a_failure(folder):
    code, seen = run(folder, "-p", "epsilon", "boom")
    assert code != 0 and "no such epsilon" in seen


@pytest.mark.parametrize("args", [["nbs/another.ipynb"], ["nbs/run_experiment.ipynb", "--help-notebook"],
                                  ["--help"], ["--version"]])
def test_everything_else_is_papermills(folder, args):
    done = subprocess.run([*COMMAND, *args, "--prepare-only"], cwd=folder, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "al_cifar" not in done.stderr and not (folder/"runs").exists()


def test_entry_point_is_registered_and_light():
    assert "al_cifar" in entry_points(group="papermill.engine").names
    heavy = "{'torch', 'numpy', 'pandas', 'IPython', 'papermill'} & set(sys.modules)"
    code = f"import sys, al_cifar.forms.terminal; sys.exit(str({heavy} or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.stderr.strip(), done.stderr
