"What someone gets who installs the package: its names, types, needs, tables, and archives that do not depend on who builds."
import ast
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from importlib.util import find_spec
from pathlib import Path

import al_cifar
import pytest
from al_cifar.study.tables import TABLES
from conftest import NOT_SOURCE
from pages import LIB, ROOT, all_modules, all_pages, imported, module_name

SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT/"settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]


def output_of(script: str, *words, cwd=ROOT, **env):
    "What a Python script prints in a new process."
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=cwd, env={**os.environ, **env}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What an import costs

HEAVY = {"torch", "torchvision", "sklearn", "statsmodels", "seaborn", "matplotlib", "pandas", "scipy.stats"}
SHOWN = "; import sys; print(*sys.modules)"


@pytest.mark.parametrize("line, allowed", [
    ("import al_cifar", set()),
    ("import al_cifar; dir(al_cifar)", set()),
    ("from al_cifar import Config, load_data, register, simulate", {"torch"}),
    ("from al_cifar import grid, load_results, published, run_study", {"torch", "pandas"}),
    ("from al_cifar import paired_differences, plot_learning_curves, summary", {"pandas", "matplotlib", "scipy.stats"}),
    ("import al_cifar.loop", {"torch"})])
def test_an_import_loads_no_more_than_it_needs(line, allowed):
    assert HEAVY & set(output_of(line + SHOWN).split()) == allowed


ROUNDS = """
import sys, torch
from al_cifar import Config, simulate
from al_cifar.data import ImageData
x, y = torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 2
data = ImageData("toy", x, y, x, y, ("a", "b"))
for strategy in ("random", "least_confidence", "margin", "kmeans"):
    list(simulate(Config(dataset="toy", strategy=strategy, initial=10, budget=20, batch=10, epochs=1), data))
    print(strategy, "sklearn" in sys.modules)
"""


def test_a_run_loads_no_sklearn_until_kmeans_asks():
    found = dict(line.split() for line in output_of(ROUNDS).splitlines())
    assert found == {"random": "False", "least_confidence": "False", "margin": "False", "kmeans": "True"}


def test_names_at_the_top():
    names = output_of("from al_cifar import *; print(*sorted(set(dir()) - {'__builtins__'}))").split()
    assert [name for name in names if not name.startswith("__")] == sorted(al_cifar.__all__)
    assert set(al_cifar.__all__) <= set(dir(al_cifar))


# What is declared

IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn", "scikit-activeml": "skactiveml", "vl-convert-python": "vl_convert"}
EXTRAS = ("notebooks", "dask", "skactiveml", "explore")
# needed, though no module imports them: a kernel that papermill starts; executors that users bring
NOT_IMPORTED = {"ipykernel", "dask", "distributed"}


def declared(field):
    "The modules that the packages of a field of settings.ini give."
    names = [re.match(r"[\w.-]+", text)[0] for text in shlex.split(SETTINGS[field])]
    return {IMPORT_NAMES.get(name, name) for name in names}


def third_party(at_top=False):
    "Names of what the modules import, or only of what importing them imports."
    found = set()
    for path in all_modules():
        module, tree = module_name(path), ast.parse(path.read_text(encoding="utf-8"))
        nodes = tree.body if at_top else ast.walk(tree)
        for node in nodes: found |= {name.split(".")[0] for name in imported(node, module, path.name == "__init__.py")}
    return found - sys.stdlib_module_names - {"al_cifar"}


def test_what_is_imported_is_declared_and_the_other_way_round():
    optional = set().union(*(declared(f"{extra}_requirements") for extra in EXTRAS))
    needed = third_party() - optional
    assert needed == declared("requirements")
    assert optional - third_party() == NOT_IMPORTED


def test_what_is_slow_or_optional_is_imported_in_functions():
    lazy = {"torchvision", "sklearn", "statsmodels", "seaborn", "papermill", "skactiveml", "vl_convert"}
    assert not lazy & third_party(at_top=True)
    assert lazy <= third_party()


def test_one_version():
    version = SETTINGS["version"]
    assert al_cifar.__version__ == version
    cff = (ROOT/"CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", cff, re.M)[1] == version
    changes = (ROOT/"CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.M)[1] == version


def test_python_versions_are_those_tested():
    workflow = (ROOT/".github/workflows/ci.yml").read_text(encoding="utf-8")
    tested = re.search(r"python: \[(.*)\]", workflow)[1].replace('"', "").split(", ")
    assert tested == SETTINGS["python_versions"].split()
    assert tested[0] == SETTINGS["min_python"]


# Archives

BUILD = """
import sys
from setuptools import build_meta
(out,) = sys.argv[1:]  # they change sys.argv
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A folder with an sdist and a wheel, and the sdist unpacked."
    folder = tmp_path_factory.mktemp("built")
    first = shutil.copytree(ROOT, folder/"first", symlinks=True, ignore=NOT_SOURCE)
    output_of(BUILD, folder, cwd=first, SOURCE_DATE_EPOCH="1700000000")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as tar: tar.extractall(folder/"unpacked")
    (source,) = (folder/"unpacked").iterdir()
    return folder, source


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("al_cifar-*")}


def test_archives_are_the_same_whoever_builds(built, tmp_path):
    "In another folder, with files of another time, under another umask."
    other = shutil.copytree(built[0]/"first", tmp_path/"other", symlinks=True, ignore=NOT_SOURCE, copy_function=shutil.copy)
    script = f"import os; os.umask(0o027)\n{BUILD}"
    output_of(script, tmp_path/"out", cwd=other, SOURCE_DATE_EPOCH="1700000000")
    assert len(hashes(built[0])) == 2
    assert hashes(tmp_path/"out") == hashes(built[0])


def test_wheel_has_the_package_and_nothing_else(built):
    (wheel,) = built[0].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        facts = message_from_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))))
    tables = {f"al_cifar/results/{name}.csv.gz": (ROOT/f"results/{name}.csv.gz").read_bytes() for name in TABLES}
    modules = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in LIB.rglob("*.py")}
    assert files == modules | tables | {"al_cifar/py.typed": b""}
    assert sum(map(len, tables.values())) < 200_000, "the tables of the wheel are to be small"
    assert facts["License-Expression"] == "Apache-2.0"
    urls = dict(text.split(", ") for text in facts.get_all("Project-URL"))
    assert {*urls} == {"Documentation", "Source", "Issues", "Changelog", "Citation"}
    assert "Typing :: Typed" in facts.get_all("Classifier")
    assert not re.findall(r"\]\((?!https://|#)", facts.get_payload()), "a relative link leads nowhere on PyPI"


def test_settings_name_the_tables():
    assert tuple(SETTINGS["published_tables"].split()) == TABLES


def test_sdist_is_the_checkout(built):
    source = built[1]
    for path in [*all_pages(), *ROOT.glob("tests/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("results/*"),
                 ROOT/"_quarto.yml", ROOT/"nbs/_quarto.yml", ROOT/"pytest.ini", ROOT/".ci/run"]:
        assert (source/path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path
    strays = [path for path in source.rglob("*") if path.name == "__pycache__" or path.suffix == ".pyc"]
    assert not strays


# A user's ten lines

USER = '''
import numpy as np
from al_cifar import (Config, grid, load_data, load_results, paired_differences, plot_learning_curves, published,
                      register, run_study, simulate, summary)
from al_cifar.oracle import ORACLES, UniformNoise
from al_cifar.strategies import PoolView, top_k

@register("closest_two", needs=("probs",))
def closest_two(view: PoolView, k: int, g: np.random.Generator) -> np.ndarray:
    second, first = np.sort(view.probs, axis=1)[:, -2:].T
    return top_k(second - first, view.priority, k)

@ORACLES.register("next_class")
class NextClass(UniformNoise):
    def wrong(self, index: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.asarray((self.y[index] + 1) % self.n_classes)

digits = load_data("digits")
config = Config(dataset="digits", strategy="closest_two", oracle="next_class", epsilon=.1, initial=20, budget=40,
                batch=10, epochs=1)
for record in simulate(config, digits): print(record["n_labels"], record["accuracy"])
paths = run_study(grid(config, strategy=["random", "closest_two"], replication=range(2)), "study", digits)
results = load_results("study")
print(summary(results), paired_differences(results), len(published()))
plot_learning_curves(results)
'''
TYPES = {
    "closest_two": r"def \(view: al_cifar.strategies.view.PoolView, k: int, g: .*Generator\) -> .*ndarray",
    "NextClass(.1)": "user.NextClass",
    "digits": r"al_cifar.data.images.ImageData \| al_cifar.data.features.FeatureData",
    "simulate(config, digits)": r"typing.Iterator\[dict\[Any, Any\]\]",
    "paths": r"list\[pathlib.Path\]",
    "summary(results)": "str",
    "published": r"def \(name: str =\) -> .*",
    "grid(config)": r"list\[al_cifar.loop.config.Config\]",
    "config.strategy": "str"}


def test_ten_lines_away_from_the_checkout(tmp_path):
    printed = output_of(USER, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "closest_two minus random" in printed
    assert "40 0." in printed


@pytest.mark.skipif(not find_spec("mypy"), reason="mypy is not installed")
def test_ten_lines_have_types(tmp_path):
    "The package is found as an installed one is, by way of py.typed, and --strict finds no fault in these lines."
    reveal = "\n".join(f"reveal_type({text})" for text in TYPES)
    (tmp_path/"user.py").write_text(f"{USER}{reveal}\n")
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "user.py"], cwd=tmp_path, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stdout
    shown = re.findall(r'Revealed type is "(.*)"', done.stdout)
    for text, found in zip(TYPES, shown, strict=True): assert re.fullmatch(TYPES[text], found), (text, found)


@pytest.mark.skipif(not find_spec("mypy"), reason="mypy is not installed")
def test_a_misspelt_field_is_found(tmp_path):
    (tmp_path/"user.py").write_text("from al_cifar import Config\nConfig(budgt=3)\n")
    done = subprocess.run([sys.executable, "-m", "mypy", "user.py"], cwd=tmp_path, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert 'Unexpected keyword argument "budgt"' in done.stdout


# The command

def test_command_without_words_explains_itself(tmp_path):
    printed = output_of("from al_cifar.forms.cli import main; main()", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert printed.startswith("usage: al_cifar")
    assert not [*tmp_path.iterdir()]
