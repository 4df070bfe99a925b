"""Settings for every test and every process that a test starts: no network, no display, one thread.

They are set while pytest loads this file, before any test module can import torch or matplotlib.
"""
import os
import shutil
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.update(AL_CIFAR_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="Agg")

ROOT = Path(__file__).resolve().parent.parent
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
