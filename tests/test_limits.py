"The limits of the house: how long things may be, and what may import what. Each failure is a sentence."
import ast
import subprocess
import sys
from graphlib import CycleError

import pytest
from pages import (PACKAGES, ROOT, all_modules, all_pages, code, import_graph, imports, in_order, is_exported,
                   module_name, module_path, package, page_id)

PAGES, MODULES = all_pages(), all_modules()
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

each_page = pytest.mark.parametrize("page", PAGES, ids=page_id)
each_module = pytest.mark.parametrize("module", MODULES, ids=module_name)


# Sizes

def too_long(lines):
    "Sentences about lines of more than 120 characters, and more than 1 % of lines over 110."
    for line in lines:
        if len(line) > 120: yield f"{len(line)} characters, at most 120 are allowed: {line.strip()[:60]} ..."
    over, all_lines = sum(len(line) > 110 for line in lines), len(lines)
    if over > max(1, all_lines//100): yield f"{over} of {all_lines} lines are over 110 characters: 1 % may be"


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


def all_names(tree):
    "The numbers of the lines of `__all__`, which nbdev breaks as it likes."
    for node in tree.body:
        if ast.unparse(node).startswith("__all__ ="): yield from range(node.lineno, node.end_lineno + 1)


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
    faults = list(long_definitions(tree))
    written = dict(enumerate(lines, 1))
    for number in all_names(tree): del written[number]
    long = [number for number, line in written.items() if len(line) > 120]
    if long: faults.append(f"over 120 characters are the lines {', '.join(map(str, long))}")
    if len(lines) > 250: faults.append(f"{len(lines)} lines, at most 250 are allowed: split the page by idea")
    for name in sorted(imports(module)):
        root = name.split(".")[0]
        if root in ("fastcore", "nbdev"): faults.append(f"exported cells may not import {name}")
        if name.endswith(".*"): faults.append(f"name what is imported instead of {name}")
    assert not faults, "\n".join([f"{module_name(module)}:", *faults])


# Imports

TOP = {"calls", "identity", "components", "checkout"}              # above all
APART = {"oracle", "model", "strategies", "crn", "data"}  # know nothing of each other
NOT_ANALYSIS = {"loop", "study", "model"}                 # analysis knows nothing of how runs are made
GRAPH = import_graph()
FACES = {module_name(path) for page in PAGES if (path := module_path(page)) and path.name == "__init__.py"}


def may_import(name):
    "The packages whose modules a module of package `name` may import."
    above = TOP | set(PACKAGES[:PACKAGES.index(name)])
    if name in APART: above -= APART
    if name == "analysis": above -= NOT_ANALYSIS
    if name == "study": above |= {"analysis"}  # a race decides between runs; analysis knows nothing of study
    return above | {name}


@each_module
def test_imports_point_up(module):
    name = module_name(module)
    if name == "al_cifar": return
    assert package(name) in PACKAGES, f"{name} is in no package of the table ({', '.join(PACKAGES)})"
    wrong = sorted(other for other in GRAPH[name] if package(other) not in may_import(package(name)))
    allowed = ", ".join(sorted(may_import(package(name))))
    assert not wrong, f"{name} may not import {wrong}: {package(name)} may only know {allowed}"


@each_module
def test_only_faces_and_pages_import_faces(module):
    name = module_name(module)
    wrong = sorted(FACES & GRAPH[name]) if name not in FACES else []
    assert not wrong, f"{name} imports the faces {wrong}: import the modules inside that have the things"


def test_no_circle_of_imports():
    try: list(in_order(GRAPH))
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        pytest.fail(f"modules import each other in a circle: {circle}")


ANALYSIS = [path for path in MODULES if package(module_name(path)) == "analysis"]


@pytest.mark.parametrize("module", ANALYSIS, ids=module_name)
def test_analysis_names_no_torch(module):
    torch = {name for name in imports(module) if name.split(".")[0] in ("torch", "torchvision")}
    assert not torch, f"{module_name(module)} imports {sorted(torch)}: analysis knows nothing of training"


def test_importing_analysis_imports_no_torch():
    script = "import sys, al_cifar.analysis; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == 0, "import al_cifar.analysis fails or imports torch, by way of another module"
