"Packaging facts live in settings.ini, which nbdev reads too; this file only hands them to setuptools."
import gzip
import os
import shlex
import shutil
import tarfile
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

os.umask(0o022)  # archives record modes: whoever builds, they are the same
here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib, site = cfg["lib_path"], cfg["doc_host"] + cfg["doc_baseurl"]
file = f"{cfg['git_url']}/blob/{cfg['branch']}"
extras = ("notebooks", "dask", "skactiveml", "explore")  # for users; `dev` has them all, and what tests and docs need
needs = {extra: shlex.split(cfg[f"{extra}_requirements"]) for extra in (*extras, "dev")}


class WithTables(build_py):
    "Published tables go into the package; a checkout has them in results/, see nbs/study/tables.ipynb."
    def run(self):
        super().run()
        if self.editable_mode: return
        folder = Path(self.build_lib)/lib/"results"
        folder.mkdir(parents=True, exist_ok=True)
        for name in cfg["published_tables"].split():
            shutil.copyfile(here/f"results/{name}.csv.gz", folder/f"{name}.csv.gz")


class SameBytes(sdist):
    "With SOURCE_DATE_EPOCH equal files give equal archives; else those say when and by whom they were made."
    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None: return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        def plain(member):
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            member.mtime, member.uid, member.gid, member.uname, member.gname = int(epoch), 0, 0, "", ""
            return member
        with (open(f"{base_name}.tar.gz", "wb") as file,
              gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as packed,
              tarfile.open(fileobj=packed, mode="w") as tar):
            tar.add(base_dir, filter=plain)
        return f"{base_name}.tar.gz"


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
    project_urls={"Documentation": site, "Source": cfg["git_url"], "Issues": f"{cfg['git_url']}/issues",
                  "Changelog": f"{file}/CHANGELOG.md", "Citation": f"{file}/CITATION.cff"},
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=["Development Status :: 3 - Alpha", "Framework :: Jupyter",
                 f"Intended Audience :: {cfg['audience']}", "Natural Language :: English",
                 "Operating System :: POSIX :: Linux", "Operating System :: MacOS",
                 "Programming Language :: Python :: 3", "Programming Language :: Python :: 3 :: Only",
                 *(f"Programming Language :: Python :: {version}" for version in cfg["python_versions"].split()),
                 "Topic :: Scientific/Engineering :: Artificial Intelligence", "Typing :: Typed"],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: ["py.typed"]},
    cmdclass={"build_py": WithTables, "sdist": SameBytes},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require=needs | {"dev": [one for extra in (*extras, "dev") for one in needs[extra]]},
    entry_points={
        "nbdev": [f"{lib}={lib}._modidx:d"],
        "console_scripts": [f"{lib}={lib}.forms.cli:main"],
        "papermill.engine": [f"{lib}={lib}.forms.terminal:Engine"],
    },
    zip_safe=False,
)
