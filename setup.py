"Packaging facts live in settings.ini, which nbdev reads too; this file only hands them to setuptools."
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
extras = ("notebooks", "dask", "skactiveml", "explore")  # for users; `dev` has them all, and what tests and docs need
needs = {extra: shlex.split(cfg[f"{extra}_requirements"]) for extra in (*extras, "dev")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=["Development Status :: 3 - Alpha", "Intended Audience :: Science/Research",
                 "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Artificial Intelligence"],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=needs | {"dev": [one for extra in (*extras, "dev") for one in needs[extra]]},
    entry_points={
        "nbdev": [f"{cfg['lib_path']}=al_cifar._modidx:d"],
        "console_scripts": ["al_cifar=al_cifar.forms.cli:main", "al_cifar_study=al_cifar.forms.command:main"],
        "papermill.engine": ["al_cifar=al_cifar.forms.terminal:Engine"],
    },
    zip_safe=False,
)
