"What holds the project together: pages that run, modules and README made from them, house limits, a wheel that works."
import ast
import json
import os
import subprocess
import sys
from collections import Counter
from graphlib import CycleError
from pathlib import Path

import pytest
from pages import (LIB, NBS, PACKAGES, ROOT, all_modules, all_pages, cells, code, default_exp, html_path, import_graph,
                   imported, imports, in_order, module_name, module_path, package, page_id)
from warm import run_page

PAGES, MODULES = all_pages(), all_modules()
RESULTS = ("run_", "benchmark", "paper", "studies/")  # pages that take parameters
TEMPLATES = [page for page in PAGES if page_id(page).startswith(RESULTS) and not default_exp(page)]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

each_page = pytest.mark.parametrize("page", PAGES, ids=page_id)
each_module = pytest.mark.parametrize("module", MODULES, ids=module_name)


def run(*command, cwd=ROOT, **env):
    "Run a program of this environment; its output is shown if it fails."
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run([program, *command[1:]], cwd=cwd, env={**os.environ, **env}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


# Pages

@each_page
def test_page_runs(page, tmp_path):
    exit_code, printed = run_page(page, tmp_path/"log.txt")
    assert exit_code == 0, f"{page_id(page)} fails (exit code {exit_code}):\n{printed}"


def test_every_page_is_tested():
    (tested,) = test_page_runs.pytestmark
    on_disk = {Path(folder)/name for folder, _, names in os.walk(NBS) for name in names if name.endswith(".ipynb")}
    hidden = {path for path in on_disk if any(part[0] in "._" for part in path.relative_to(NBS).parts)}
    untested = sorted(map(page_id, on_disk - hidden - set(tested.args[1])))
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
    for path in made:
        if path != lib/"__init__.py": path.unlink()
    run("nbdev_export", cwd=tree)
    exported = {path: path.read_bytes() for path in lib.rglob("*.py")}
    different = [path for path in made.keys() | exported.keys() if made.get(path) != exported.get(path)]
    names = sorted(path.relative_to(lib).as_posix() for path in different)
    assert not names, f"{names} are not what nbdev_export makes of nbs/: run it, or delete the stale ones"


def test_every_module_has_a_page():
    "Only the empty `__init__` of a folder without a face, which nbdev makes, and the one that holds the version have none."
    makers = Counter(module_path(page) for page in PAGES if default_exp(page))
    twice = [module_name(path) for path, count in makers.items() if count > 1]
    assert not twice, f"several pages make {twice}"
    not_made = [page_id(page) for page in PAGES if (path := module_path(page)) and not path.exists()]
    assert not not_made, f"{not_made} have no module: run nbdev_export"
    no_face = [path for path in MODULES if path.name == "__init__.py" and not path.read_text(encoding="utf-8").strip()]
    orphans = set(MODULES) - makers.keys() - set(no_face) - {LIB/"__init__.py"}
    assert not orphans, f"no page makes {sorted(map(module_name, orphans))}: delete them"


@each_page
def test_what_is_exported_has_a_module(page):
    exports = [text for text in code(page) if is_exported(text)]
    assert default_exp(page) or not exports, f"{page_id(page)} exports cells and names no default_exp"


def test_readme_and_sidebar_are_up_to_date(): run("python", "tools/docs.py", "--check")


# House limits

def is_exported(text): return any(line.replace(" ", "").startswith("#|export") for line in text.splitlines())


def too_long(lines):
    "Sentences about lines of more than 120 characters, and more than 1 % of lines over 110."
    yield from (f"{len(line)} characters, at most 120 are allowed: {line.strip()[:60]} ..." for line in lines if len(line) > 120)
    over = sum(len(line) > 110 for line in lines)
    if over > max(1, len(lines)//100): yield f"{over} of {len(lines)} lines are over 110 characters, 1 % may be"


def parsed(text):
    "The syntax tree of a cell; of one with IPython's magics an empty one."
    try: return ast.parse(text)
    except SyntaxError: return ast.parse("")


def long_definitions(tree):
    for node in ast.walk(tree):
        size = node.end_lineno - node.lineno + 1 if isinstance(node, DEFINITIONS) else 0
        if size > 40: yield f"{node.name} has {size} lines: split it at 40"


def crowded(text):
    "More than two documented definitions in one exporting cell: a reader gets one thought at a time."
    nodes = parsed(text).body if is_exported(text) else []
    names = [node.name for node in nodes if isinstance(node, DEFINITIONS) and ast.get_docstring(node)]
    if len(names) > 2: yield f"one cell exports {', '.join(names)}: two definitions are the limit"


@each_page
def test_page_keeps_the_limits(page):
    lines = [line for text in code(page) for line in text.splitlines()]
    faults = list(too_long(lines))
    for text in code(page): faults += [*long_definitions(parsed(text)), *crowded(text)]
    assert not faults, "\n".join([f"{page_id(page)}:", *faults])


@each_module
def test_module_keeps_the_limits(module):
    text = module.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    faults = [*long_definitions(tree)]
    faults += [f"line {number} has {len(line)} characters" for number, line in enumerate(lines, 1) if len(line) > 120]
    if len(lines) > 250: faults.append(f"{len(lines)} lines, at most 250 are allowed: split the page by idea")
    for node in ast.walk(tree):
        for name in imported(node):
            if name.split(".")[0] in ("fastcore", "nbdev"): faults.append(f"only examples and tests may import {name}")
            if name.endswith("*"): faults.append(f"name what is imported instead of {name}")
    assert not faults, "\n".join([f"{module_name(module)}:", *faults])


# Imports

TOP = {"components", "checkout"}                          # above all
APART = {"oracle", "model", "strategies", "crn", "data"}  # know nothing of each other
NOT_ANALYSIS = {"loop", "study", "model"}                 # analysis knows nothing of how runs are made
FACES = {module_name(path) for page in PAGES if (path := module_path(page)) and path.name == "__init__.py"}


def may_import(name):
    "The packages whose modules a module of package `name` may import."
    above = TOP | set(PACKAGES[:PACKAGES.index(name)])
    if name in APART: above -= APART
    if name == "analysis": above -= NOT_ANALYSIS
    return above | {name}


@each_module
def test_imports_point_up(module):
    name = module_name(module)
    inner = import_graph()[name]
    if name == "al_cifar": return
    assert package(name) in PACKAGES, f"{name} is in no package of the table ({', '.join(PACKAGES)})"
    wrong = sorted(other for other in inner if package(other) not in may_import(package(name)))
    assert not wrong, f"{name} may not import {wrong}: {package(name)} may only know {sorted(may_import(package(name)))}"


@each_module
def test_only_faces_and_pages_import_faces(module):
    name = module_name(module)
    wrong = sorted(FACES & import_graph()[name]) if name not in FACES else []
    assert not wrong, f"{name} imports the faces {wrong}: import the modules inside that have the things"


def test_no_circle_of_imports():
    try: list(in_order(import_graph()))
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        pytest.fail(f"modules import each other in a circle: {circle}")


def test_analysis_needs_no_torch():
    for module in MODULES:
        roots = {name.split(".")[0] for name in imports(module)} if package(module_name(module)) == "analysis" else set()
        assert not roots & {"torch", "torchvision"}, f"{module_name(module)} imports torch"
    script = "import sys, al_cifar.analysis; sys.exit('torch' in sys.modules and 'al_cifar.analysis imports torch' or 0)"
    run("python", "-c", script)


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
unwanted = {"nbdev", "fastcore", "papermill", "IPython"} & set(sys.modules)
assert not unwanted, f"simulating imports {unwanted}"

from importlib import import_module
for name in sys.argv[2:]: assert import_module(name).__file__.startswith(sys.argv[1]), name
"""


def test_wheel_works_without_the_checkout(tree, tmp_path):
    "An exported function that calls an unexported helper passes in its page and fails here, and so does a forgotten folder."
    run("pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path, cwd=tree)
    site = tmp_path/"site"
    run("pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, *tmp_path.glob("*.whl"))
    run("python", "-c", SIMULATE, str(site), *map(module_name, MODULES), cwd=tmp_path, PYTHONPATH=str(site))
    registered = next(site.glob("*.dist-info"))/"entry_points.txt"
    assert "al_cifar.forms.terminal:Engine" in registered.read_text()
