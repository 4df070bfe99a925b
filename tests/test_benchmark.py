"`benchmark.ipynb` itself, through papermill, on digits: everything is measured, nothing is timed here."
import re
import socket
import subprocess

import nbformat
import pytest
from conftest import PAPERMILL, ROOT

PAGE = ROOT/"nbs/benchmark.ipynb"
SMALL = dict(dataset="digits", whole=True, loader_workers=[0], pool_sizes=[600, 1297], budgets=[100, 200],
             cohort_sizes=[1, 2], members=[1, 2], replications=2, repeats=1)


def printed(notebook):
    "What the cells of `notebook` printed or showed as text, a string for each output."
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]


def command(out, page=PAGE, **parameters):
    text = "\n".join(f"{k}: {v}" for k, v in parameters.items())
    return subprocess.run([PAPERMILL, page, out/"out.ipynb", "-y", text], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, cwd=out, timeout=900)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    done = command(out, **SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return nbformat.read(out/"out.ipynb", 4)


@pytest.mark.slow
def test_every_goal_gets_a_verdict(executed):
    lines = printed(executed)[-1].strip().splitlines()
    assert lines[0].startswith("digits, 1,297 images")
    verdicts = [re.fullmatch(r"(.+): (.*\d.*); (?:not )?reached", line) for line in lines[1:]]
    assert len(verdicts) == 7 and all(verdicts), lines
    assert sum("(measured)" in line for line in lines) == 2


@pytest.mark.slow
def test_table_and_chart(executed):
    outputs = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in data for data in outputs) == 1
    (table,) = [data["text/html"] for data in outputs if "faster at once" in data.get("text/html", "")]
    rows = re.findall(r"<th>(train|evaluate|score|select)</th>\s*<td>([\d.e-]+)</td>\s*<td>([\d.e-]+)</td>", table)
    assert [row[0] for row in rows] == ["train", "evaluate", "score", "select"]*2
    assert all(float(value) > 0 for row in rows for value in row[1:])


@pytest.mark.slow
def test_bfloat16_and_compilation_are_compared(executed):
    texts = printed(executed)
    assert sum("query strategy" in text and "ci_low" in text for text in texts) == 1
    assert sum("compiled, ms" in text and "training step" in text for text in texts) == 1


@pytest.mark.slow
def test_outputs_name_no_host_and_no_path(executed):
    for notebook in (executed, nbformat.read(PAGE, 4)):
        text = "\n".join(printed(notebook))
        assert not re.findall(rf"\b{re.escape(socket.gethostname())}\b|/\w+/\w+/", text), text


def test_stored_page_has_its_own_defaults():
    "Outputs may come from other parameters (the page prints them), but the cell that papermill injects stays out."
    assert not any("injected-parameters" in cell.metadata.get("tags", ()) for cell in nbformat.read(PAGE, 4).cells)


def test_labels_that_do_not_span_a_run(tmp_path):
    done = command(tmp_path, dataset="digits", labels=[100, 500])
    assert done.returncode != 0 and "labels must reach from 50 or less to 500 or more, got [100, 500]" in done.stderr


@pytest.mark.slow
def test_strategies_have_their_costs(tmp_path):
    done = command(tmp_path, page=ROOT/"nbs/benchmark_strategies.ipynb", dataset="digits", labels=200, batches=[10, 100])
    assert done.returncode == 0, done.stdout + done.stderr
    lines = printed(nbformat.read(tmp_path/"out.ipynb", 4))[-1].strip().splitlines()
    assert len(lines) == 16 and all(re.fullmatch(r".+: .*\d.*; (?:not )?reached", line) for line in lines), lines


@pytest.mark.slow
def test_learners_have_their_costs(tmp_path):
    done = command(tmp_path, page=ROOT/"nbs/benchmark_learners.ipynb", dataset="digits", labels=100, scored=500)
    assert done.returncode == 0, done.stdout + done.stderr
    table = next(text for text in printed(nbformat.read(tmp_path/"out.ipynb", 4)) if "parameters" in text)
    assert len(re.findall(r"^[\w'-].*?(?: +\d[\d.]*){5}", table, re.M)) == 13, table
