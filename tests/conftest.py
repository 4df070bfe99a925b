"""Settings for every test and every process that a test starts: no network, no display, one thread (see the model page).

They are set while pytest loads this file, before any test module can import torch or matplotlib.
"""
import os
import shutil
from pathlib import Path

import pytest

os.environ.update(AL_CIFAR_OFFLINE="1", OMP_NUM_THREADS="1", MPLBACKEND="Agg")

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", "venv", "runs", "build", "dist", "_docs", "_proc", "*.egg-info",
                                    "__pycache__", ".ipynb_checkpoints", ".pytest_cache")


@pytest.fixture
def tree(tmp_path):
    "A copy of the checkout, for checks whose tools write where they read."
    return Path(shutil.copytree(ROOT, tmp_path/"tree", symlinks=True, ignore=NOT_SOURCE))
