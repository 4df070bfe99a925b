"What holds the project together: pages that run, modules and README made from them, a wheel that works."
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pages import (NBS, ROOT, all_modules, all_pages, cells, code, default_exp, html_path, is_exported,
                   module_name, module_path, page_id)
from warm import run_page

PAGES, MODULES = all_pages(), all_modules()
RESULTS = ("run_", "benchmark", "paper", "studies/")  # pages that take parameters
TEMPLATES = [page for page in PAGES if page_id(page).startswith(RESULTS) and not default_exp(page)]

# pages that take ten seconds and more, and on which nothing else depends: `pytest -m slow` runs them
LONG = {f"tutorials/{name}" for name in ("own_strategy", "own_images", "own_embeddings", "a_race", "scale_out",
                                         "lesson_3", "lesson_solutions")}

each_page = pytest.mark.parametrize("page", PAGES, ids=page_id)


def run_marks(page): return [pytest.mark.slow] if page_id(page) in LONG else []


def run(*command, cwd=ROOT, **env):
    "Run a program of this environment; its output is shown if it fails."
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=cwd, env={**os.environ, **env}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


# Pages

@pytest.mark.parametrize("page", [pytest.param(page, marks=run_marks(page)) for page in PAGES], ids=page_id)
def test_page_runs(page, tmp_path):
    exit_code, printed = run_page(page, tmp_path/"log.txt")
    assert exit_code == 0, f"{page_id(page)} fails (exit code {exit_code}):\n{printed}"


def test_every_page_is_tested():
    (mark,) = test_page_runs.pytestmark
    tested = {page for param in mark.args[1] for page in param.values}
    files = {Path(folder)/name for folder, _, names in os.walk(NBS) for name in names}
    visible = re.compile(r"([^._][^/]*/)*[^._][^/]*\.ipynb")
    pages = {path for path in files if visible.fullmatch(path.relative_to(NBS).as_posix())}
    untested = sorted(map(page_id, pages - tested))
    assert not untested, f"no test runs {untested}"


def test_page_names_are_unique():
    "Numbers are stripped from names: `06f_learners` and `learners` would both become learners.html."
    for name, count in Counter(map(html_path, PAGES)).items():
        same = [page_id(page) for page in PAGES if html_path(page) == name]
        assert count == 1, f"{same} all become {name}: rename all but one"


@each_page
def test_stored_outputs(page):
    failed = [output["evalue"] for cell in cells(page) for output in cell.get("outputs", ())
              if output["output_type"] == "error"]
    assert not failed, f"{page_id(page)} stores a failure: {failed}"
    assert page.stat().st_size < 1_000_000, f"{page_id(page)} is over 1 MB: save fewer or smaller figures"


@pytest.mark.parametrize("page", TEMPLATES, ids=page_id)
def test_template_has_one_parameters_cell(page):
    "Without the tag papermill runs with the defaults and only mentions it."
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells(page)) == 1


def test_pages_are_clean(tree):
    "Every page of the copy is made dirty: what nbdev_clean leaves dirty it does not reach."
    copies = {page: tree/page.relative_to(ROOT) for page in PAGES}
    for copy in copies.values():
        notebook = json.loads(copy.read_text(encoding="utf-8"))
        notebook["cells"][0]["metadata"]["dirt"] = True
        copy.write_text(json.dumps(notebook), encoding="utf-8")
    run("nbdev_clean", cwd=tree)
    left = [page_id(page) for page, copy in copies.items() if '"dirt"' in copy.read_text(encoding="utf-8")]
    assert not left, f"nbdev_clean does not reach {left}"
    unclean = [page_id(page) for page, copy in copies.items() if copy.read_bytes() != page.read_bytes()]
    assert not unclean, f"{unclean} are not clean: run nbdev_clean"


# Modules

def test_modules_are_what_the_pages_export(tree):
    "Hand-edited modules, modules of deleted pages and modules never exported all show up as a difference."
    lib = tree/"al_cifar"
    made = {path: path.read_bytes() for path in lib.rglob("*.py")}
    for path in made: path.unlink()
    run("nbdev_export", cwd=tree)
    exported = {path: path.read_bytes() for path in lib.rglob("*.py")}
    different = [path for path in made.keys() | exported.keys() if made.get(path) != exported.get(path)]
    names = sorted(path.relative_to(lib).as_posix() for path in different)
    assert not names, f"{names} are not what nbdev_export makes of nbs/: run it, or delete the stale ones"


def test_every_module_has_a_page():
    "But for the empty `__init__` that nbdev gives a folder without a face."
    makers = Counter(module_path(page) for page in PAGES if default_exp(page))
    twice = [module_name(path) for path, count in makers.items() if count > 1]
    assert not twice, f"several pages make {twice}"
    not_made = [page_id(page) for page in PAGES if (path := module_path(page)) and not path.exists()]
    assert not not_made, f"{not_made} have no module: run nbdev_export"
    no_face = {path for path in MODULES if path.name == "__init__.py" and path.stat().st_size == 0}
    orphans = set(MODULES) - makers.keys() - no_face
    assert not orphans, f"no page makes {sorted(map(module_name, orphans))}: delete them"


@each_page
def test_what_is_exported_has_a_module(page):
    exports = [text for text in code(page) if is_exported(text)]
    assert default_exp(page) or not exports, f"{page_id(page)} exports cells and names no default_exp"


def test_readme_and_sidebar_are_up_to_date(): run("python", "tools/docs.py", "--check")


def test_sidebar_lists_every_page_once():
    listed = re.findall(r"- (\S+)\.ipynb$", (ROOT/"_quarto.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(map(page_id, PAGES))


# The wheel

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
from al_cifar.study.tables import TABLES, table_path
for name in TABLES: assert str(table_path(name)).startswith(sys.argv[1]), table_path(name)
assert len(al_cifar.published()) == 1500
unwanted = {"nbdev", "fastcore", "papermill", "IPython"} & set(sys.modules)
assert not unwanted, f"simulating imports {unwanted}"

from importlib import import_module
for name in sys.argv[2:]: assert import_module(name).__file__.startswith(sys.argv[1]), name
"""


def test_wheel_works_without_the_checkout(tree, tmp_path):
    "An exported function that calls an unexported helper passes in its page and fails here."
    site, quiet = tmp_path/"site", ("--quiet", "--no-deps")
    run("pip", "wheel", ".", *quiet, "--no-build-isolation", "--wheel-dir", tmp_path, cwd=tree)
    run("pip", "install", *quiet, "--no-index", "--target", site, *tmp_path.glob("*.whl"))
    run("python", "-c", SIMULATE, str(site), *map(module_name, MODULES), cwd=tmp_path, PYTHONPATH=str(site))
    registered = next(site.glob("*.dist-info"))/"entry_points.txt"
    assert "al_cifar.forms.terminal:Engine" in registered.read_text()
