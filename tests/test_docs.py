"The site builds, without a network; every page is on it, and its links lead somewhere."
import shutil
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
    rendered.remove("explore.html")
    assert rendered == sorted(map(html_path, all_pages())), "a page, a file: no fewer, no more"
    assert 'class="math' in (site/"oracle.html").read_text(encoding="utf-8")
    for name in rendered:
        assert f'href="{"../"*name.count("/")}styles.css"' in (site/name).read_text(encoding="utf-8"), name
    results_can_be_explored(site/"explore.html")


def results_can_be_explored(page):
    "The page of the published results, opened in a browser if there is one: a line and a row for each strategy."
    assert page.stat().st_size < 3_000_000
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser: return
    call = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    seen = subprocess.run([*call, f"file://{page}#baseline=random"], capture_output=True, text=True, timeout=120).stdout
    assert seen.count('aria-roledescription="line mark container"') > 0
    assert seen.count('<th scope="row">') == 2, "the paper's strategies but random"


@pytest.mark.parametrize("link,broken", [
    ("../model.html#training", False), ("https://site/al/model.html", False), ("https://elsewhere/x", False),
    ("model.html", True), ("../model.html#nothing", True), ("../01_model.ipynb", True),
    ("https://site/al/x.html", True)])
def test_broken_links_are_found(tmp_path, link, broken):
    (tmp_path/"loop").mkdir()
    (tmp_path/"model.html").write_text('<h2 id="training">Training</h2>')
    (tmp_path/"loop/config.html").write_text(f'<a href="{link}">link</a>')
    assert list(broken_links(tmp_path, "https://site/al/")) == [f"loop/config.html: {link}"]*broken
