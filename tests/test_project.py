"What holds the project together: pages that run, modules and README made from them, house limits, a wheel that works."
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in (ROOT/"nbs").glob("*.ipynb") if path.name[0] not in "._")
MODULES = sorted(path for path in (ROOT/"al_cifar").glob("*.py") if path.name != "_modidx.py")
TEMPLATES = [path for path in PAGES if path.name.startswith(("run_", "benchmark", "paper", "learners"))]  # take parameters
# top to bottom: a module may import those before it, and the first five know nothing of each other
ORDER = ["oracle", "model", "strategies", "crn", "data", "loop", "study", "analysis"]


def by_name(path): return path.stem


def run(*command, cwd=ROOT, **env):
    "Run a program of this environment; its output is shown if it fails."
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=cwd, env={**os.environ, **env}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def cells(page): return json.loads(page.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_page_runs(page): run("nbdev_test", "--path", page, "--n_workers", "0")


def test_modules_are_what_the_pages_export(tree):
    "Hand-edited modules, modules of deleted pages and modules never exported all show up as a difference."
    made = {path: path.read_bytes() for path in (tree/"al_cifar").glob("*.py")}
    for path in made:
        if path.name != "__init__.py": path.unlink()
    run("nbdev_export", cwd=tree)
    exported = {path: path.read_bytes() for path in (tree/"al_cifar").glob("*.py")}
    different = sorted(path.name for path in made.keys() | exported.keys() if made.get(path) != exported.get(path))
    assert not different, f"{different} are not what nbdev_export makes of nbs/: run it, or delete the stale ones"


def test_notebooks_are_clean(tree):
    before = {page.name: (tree/"nbs"/page.name).read_bytes() for page in PAGES}
    run("nbdev_clean", cwd=tree)
    dirty = [name for name, text in before.items() if (tree/"nbs"/name).read_bytes() != text]
    assert not dirty, f"{dirty} are not clean: run nbdev_clean"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_stored_outputs(page):
    failed = [output["evalue"] for cell in cells(page) for output in cell.get("outputs", ())
              if output["output_type"] == "error"]
    assert not failed, f"{page.name} stores a failure: {failed}"
    assert page.stat().st_size < 1_000_000, f"{page.name} is over 1 MB: save fewer or smaller figures"


@pytest.mark.parametrize("page", TEMPLATES, ids=by_name)
def test_template_has_one_parameters_cell(page):
    "Without the tag papermill runs with the defaults and only mentions it."
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells(page)) == 1


def test_readme_is_made_from_index(): run("python", "tools/docs.py", "--check")


@pytest.mark.parametrize("module", MODULES, ids=by_name)
def test_house_limits(module):
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, definitions):
            assert node.end_lineno - node.lineno < 40, f"{node.name} has over 40 lines: split it"
        for name in imported(node):
            assert name.split(".")[0] not in ("fastcore", "nbdev"), f"line {node.lineno}: only pages may import {name}"
            assert not name.endswith("*"), f"line {node.lineno}: name what is imported"


def imported(node):
    "The dotted names that an import statement imports."
    if isinstance(node, ast.Import): return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return ["." * node.level + f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names]
    return []


def inner_imports(module):
    "The modules of this package that `module` imports."
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        for name in imported(node):
            found = re.match(r"(?:\.|al_cifar\.)(\w+)", name)
            if found and found[1] != "__version__": yield found[1]


def test_imports_point_up():
    exports = (re.search(r"#\| *default_exp (\w+)", page.read_text(encoding="utf-8")) for page in PAGES)
    order = [found[1] for found in exports if found]
    assert [name for name in order if name in ORDER] == ORDER
    for module in MODULES:
        if module.stem == "__init__": continue
        above = set(order[:order.index(module.stem)])
        if module.stem in ORDER[:5]: above -= set(ORDER[:5])
        assert not (wrong := set(inner_imports(module)) - above), f"{module.stem} may not import {sorted(wrong)}"


SIMULATE = """
import sys, al_cifar
assert al_cifar.__file__.startswith(sys.argv[1]), al_cifar.__file__
assert "torch" not in sys.modules, "importing al_cifar alone must stay light"
from al_cifar.data import load_data
from al_cifar.loop import Config, simulate
data = load_data("digits")
for strategy in ("random", "least_confidence", "kmeans"):
    config = Config(dataset="digits", initial=20, budget=40, batch=10, epochs=1, strategy=strategy)
    labels = [record["n_labels"] for record in simulate(config, data)]
    assert labels == [20, 30, 40], (strategy, labels)
unwanted = {"nbdev", "fastcore", "papermill", "IPython"} & set(sys.modules)
assert not unwanted, f"simulating imports {unwanted}"
"""


def test_wheel_works_without_the_checkout(tree, tmp_path):
    "An exported function that calls an unexported helper passes in its page and fails here."
    run("pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path, cwd=tree)
    site = tmp_path/"site"
    run("pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, *tmp_path.glob("*.whl"))
    run("python", "-c", SIMULATE, str(site), cwd=tmp_path, PYTHONPATH=str(site))
    registered = next(site.glob("*.dist-info"))/"entry_points.txt"
    assert "al_cifar.forms.terminal:Engine" in registered.read_text()
