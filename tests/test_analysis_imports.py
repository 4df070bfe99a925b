"""`import al_cifar.analysis` in a new process: it knows nothing of how runs are made, and is quick to import."""
import subprocess
import sys
import pytest


def loaded(code):
    """Names of the modules that are loaded in a new process after `code`."""
    show = "\nimport sys; print(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code + show], check=True, capture_output=True, text=True).stdout.split())


@pytest.fixture(scope="module")
def modules():
    return loaded("import al_cifar.analysis")


@pytest.mark.parametrize("heavy", ["torch", "torchvision", "statsmodels", "sklearn", "seaborn"])
def test_analysis_does_not_import(modules, heavy):
    assert heavy not in modules


def test_the_check_sees_what_is_imported(modules):
    assert {"al_cifar.analysis", "pandas", "matplotlib"} <= modules
