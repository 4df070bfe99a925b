"The site builds, without a network, and its links lead somewhere."
import re
import subprocess
import sys

import pytest


def test_site_builds(tree):
    done = subprocess.run([sys.executable, "tools/docs.py"], cwd=tree, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 3: pytest.skip(done.stdout)  # Python 3.10 without Quarto
    assert done.returncode == 0, done.stdout
    names = {path.stem for path in (tree/"_docs").glob("*.html")}
    pages = {re.sub(r"^\d+[a-z]?_", "", path.stem) for path in (tree/"nbs").glob("[!_.]*.ipynb")}
    assert pages <= names
    assert 'class="math' in (tree/"_docs/oracle.html").read_text(encoding="utf-8")
