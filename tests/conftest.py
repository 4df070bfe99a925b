"""Settings for every test and every process that a test starts: no network, no display, one thread.

They are set while pytest loads this file, before any test module can import torch or matplotlib.
"""
import ast
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.update(AL_CIFAR_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="Agg")

ROOT = Path(__file__).resolve().parent.parent
PAPERMILL = str(Path(sys.executable).with_name("papermill"))
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", "venv", "runs", "build", "dist", "_docs", "_proc",
                                    "*.egg-info", "__pycache__", ".ipynb_checkpoints", ".pytest_cache")

# These kill processes at random moments and wait for others: they share a worker, so that no two run at once.
FAULTS = {"test_faults.py", "test_run_experiment.py"}
# Each test for itself, on whichever worker is free; those of another file stay together and share fixtures.
SINGLE = {"test_project.py"}


class Groups(LoadScopeScheduling):
    "Which tests stay together. pytest-xdist's own mark for it, `xdist_group`, does nothing with pytest 9.2."
    def _split_scope(self, nodeid):
        name = Path(nodeid.partition("::")[0]).name
        return nodeid if name in SINGLE else "faults" if name in FAULTS else name


def pytest_xdist_make_scheduler(config, log): return Groups(config, log)


@pytest.fixture
def tree(tmp_path):
    "A copy of the checkout, for checks whose tools write where they read."
    return Path(shutil.copytree(ROOT, tmp_path/"tree", symlinks=True, ignore=NOT_SOURCE))


def assigned(source):
    "Names that a cell without magic assigns to."
    nodes = ast.walk(ast.parse(source.removeprefix("%matplotlib inline")))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def check_template(path, form):
    "The parameters cell says what the form says if nothing is said, own parameters among it; no other name is in the way."
    first, cell, *rest = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert cell.metadata["tags"] == ["parameters"] and len(cell.source.splitlines()) <= 20
    defaults = {}
    exec(cell.source, {}, defaults)
    assert {*form.own} <= {*defaults}
    assert form.read(defaults) == form.read({})
    for name, value in defaults.items():
        assert (tuple(value) if isinstance(value, list) else value) == form.parameters[name].default, name
    later = set().union(*(assigned(c.source) for c in rest))
    assert later <= assigned(first.source), "a cell that is run again would take these for parameters"
    imported = {alias.asname or alias.name for node in ast.walk(ast.parse(first.source.removeprefix("%matplotlib inline")))
                if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert not (assigned(first.source) | imported) & {*form.parameters}
