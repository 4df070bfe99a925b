"""What the folders hold: the pages of nbs/, the modules made from them, and what imports what.

tools/docs.py and the tests ask here, so that all of them see the same pages.
"""
import ast
import json
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT/"nbs", ROOT/"al_cifar"

# From the top down: a package may import those before it.
PACKAGES = ["calls", "identity", "components", "checkout", "oracle", "model", "strategies", "crn", "data", "loop", "study",
            "analysis", "forms", "paper"]


def all_pages():
    "Every page, by name. Files and folders whose names begin with `_` or `.` are left out, as nbdev does."
    def hidden(path): return any(part[0] in "._" for part in path.relative_to(NBS).parts)
    return sorted(path for path in NBS.rglob("*.ipynb") if not hidden(path))


def page_id(page): return page.relative_to(NBS).with_suffix("").as_posix()


def cells(page): return json.loads(page.read_text(encoding="utf-8"))["cells"]


def code(page):
    "The text of each code cell."
    return ["".join(cell["source"]) for cell in cells(page) if cell["cell_type"] == "code"]


def is_exported(text): return re.search(r"^\s*#\s*\|\s*export[si]?\b", text, re.M) is not None


def default_exp(page):
    "The module that a page makes, as the page writes it (`oracle.__init__`), or None."
    found = re.search(r"^#\s*\|\s*default_exp\s+(\S+)", "\n".join(code(page)), re.M)
    return found and found[1]


def module_path(page):
    "The file that a page is exported to, or None."
    name = default_exp(page)
    return name and LIB/(name.replace(".", "/") + ".py")


def html_path(page):
    "Where the site has a page, by nbdev's rule for links: lower case, without a number in front."
    name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", page.name.lower())
    return page.relative_to(NBS).with_name(name).with_suffix(".html").as_posix()


def all_modules():
    "Every module but nbdev's index of symbols."
    return sorted(path for path in LIB.rglob("*.py") if path.name != "_modidx.py")


def module_name(path):
    "The dotted name of a module: `al_cifar.oracle` for a face."
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package(name):
    "The package of design.md's table that a module belongs to: `loop` of `al_cifar.loop.config`."
    return name.split(".")[1] if "." in name else ""


def imported(node, module="", face=False):
    "The dotted names that an import statement imports; `face`: its module is the `__init__` of a package."
    if isinstance(node, ast.Import): return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom): return []
    up = module.split(".")
    up = up[:len(up) - node.level + face] if node.level else []
    return [".".join(filter(None, [*up, node.module, alias.name])) for alias in node.names]


def imports(path):
    "The dotted names that a module imports, wherever in it."
    module, face = module_name(path), path.name == "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in ast.walk(tree) for name in imported(node, module, face)}


@cache
def import_graph():
    "For each module the modules of this package that it imports."
    paths = {module_name(path): path for path in all_modules()}
    def inner(name):
        # `al_cifar.oracle.UniformNoise` is a name in a module; `from .. import loop` imports the module
        return next((n for n in (name, name.rpartition(".")[0]) if n in paths), None)
    found = {module: {inner(name) for name in imports(path)} for module, path in paths.items()}
    return {module: names - {None, module, "al_cifar"} for module, names in found.items()}


def in_order(graph):
    "The nodes of a graph {node: those it needs}: what is needed first, then by name. Raises CycleError."
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        yield from ready
        sorter.done(*ready)


def pages_in_order(pages):
    "Pages in the order in which their modules import each other, then by name; those without one come last."
    paths = {page: module_path(page) for page in pages}
    exporting = {module_name(path): page for page, path in paths.items() if path and path.exists()}
    graph = import_graph()
    names = in_order({name: graph[name] & exporting.keys() for name in exporting})
    others = [page for page in pages if page not in exporting.values()]
    return [exporting[name] for name in names] + others
