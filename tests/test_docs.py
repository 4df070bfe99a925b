"The site builds, without a network; every page is on it, and its links lead somewhere."
import subprocess
import sys

import pytest
from docs import broken_links
from pages import all_pages, html_path


def test_site_builds(tree):
    done = subprocess.run([sys.executable, "tools/docs.py"], cwd=tree, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 3: pytest.skip(done.stdout)  # Python 3.10 without Quarto
    assert done.returncode == 0, done.stdout
    site = tree/"_docs"
    rendered = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    assert rendered == sorted(map(html_path, all_pages())), "a page, a file: no fewer, no more"
    assert 'class="math' in (site/"oracle.html").read_text(encoding="utf-8")
    for name in rendered:
        assert f'href="{"../"*name.count("/")}styles.css"' in (site/name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("link,broken", [
    ("../model.html#training", False), ("https://site/al/model.html", False), ("https://elsewhere/x", False),
    ("model.html", True), ("../model.html#nothing", True), ("../01_model.ipynb", True),
    ("https://site/al/x.html", True)])
def test_broken_links_are_found(tmp_path, link, broken):
    (tmp_path/"loop").mkdir()
    (tmp_path/"model.html").write_text('<h2 id="training">Training</h2>')
    (tmp_path/"loop/config.html").write_text(f'<a href="{link}">link</a>')
    assert list(broken_links(tmp_path, "https://site/al/")) == [f"loop/config.html: {link}"]*broken
