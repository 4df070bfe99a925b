"What the site adds to its builder: reference, links, landmarks, search. A browser looks at all pages if there is one."
import inspect
import json
import re
import subprocess
import sys

import pytest
import yaml
from docs import broken_links, readme, sections
from pages import all_pages, cells, html_path, page_id
from polish import description_of, faults, head, llms_text, polish, polish_page, search_entries, title_of
from prepare import fold_code
from reference import comments, parameter_text, signature_text, type_text

BASE = "https://site/al/"
PAGE = """<!doctype html><html lang="en"><head><meta name="description" content="One line."><title>Run</title></head>
<body class="nav-fixed"><nav class="navbar bg-light" data-bs-theme="light"></nav>
<nav id="quarto-sidebar"><a class="sidebar-link" data-bs-toggle="collapse" data-bs-target="#s" role="navigation"
aria-expanded="true"><span>Studies</span></a></nav>
<main id="quarto-document-content"><h1 class="title">Run</h1><h3 id="f">f</h3><h2 class="anchored">A</h2><h3 id="g">g</h3>
<a href="https://site/al/loop/config.html#config">Config</a>
<table border="1" class="dataframe"><tr><th></th><th><span class="math inline">\\(p\\)</span></th></tr></table><img src="data:image/png;base64,AA" class="img-fluid">
</main><footer>al_cifar VERSION</footer></body></html>"""


@pytest.mark.parametrize("wanted", [
    'href="../loop/config.html#config"', '<link rel="canonical" href="https://site/al/study/run.html">',
    'content="https://site/al/social.png"', 'class="skip-link" href="#quarto-document-content"', 'aria-label="Pages"',
    '<button type="button" class="sidebar-link"', '<div class="sd-table"><table class="dataframe">', '<td></td>', '<span class="visually-hidden">p</span></th>',
    '<h3 aria-level="2" id="f">', '<h3 id="g">', "al_cifar 1.2.3", 'src="../site.js"', 'class="figure-card img-fluid"'])
def test_a_page_is_polished(wanted):
    assert wanted in polish_page(PAGE, "study/run.html", BASE, "1.2.3")


def test_polishing_keeps_absolute_addresses_in_the_head_only():
    text = polish_page(PAGE, "study/run.html", BASE, "1.2.3")
    assert BASE not in text.partition("</head>")[2]


def test_the_first_page_is_the_address_of_the_site():
    assert f'rel="canonical" href="{BASE}"' in head("<head></head>", "index.html", BASE)


@pytest.mark.parametrize("change,fault", [
    (('<img ', '<img alt="A curve that rises" '), None), (("<img ", "<img "), "alt text"),
    (("<h1", "<h4"), "heading of the first rank"), (("One line.", ""), None), (('name="description"', ""), "no description"),
    (('<h3 id="f">', '<h3 id="g">'), "ids that are used twice"), (("One line.", "NoneType"), None),
    (("Studies", "order: NoneType"), "NoneType"),
    (("Studies", "<code>[f](https://x/f)</code>"), "raw Markdown in code")])
def test_faults_of_a_page_are_found(change, fault):
    text = PAGE if "alt text" in str(fault) else PAGE.replace("<img ", '<img alt="x" ')
    found = list(faults(text.replace(*change)))
    assert (found == []) if fault is None else (len(found) == 1 and fault in found[0]), found


@pytest.mark.parametrize("page", all_pages(), ids=page_id)
def test_every_figure_has_alt_text(page):
    for cell in cells(page):
        source, outputs = "".join(cell["source"]), cell.get("outputs", [])
        shown = any("image/png" in out.get("data", {}) and "text/html" not in out["data"] for out in outputs)
        hidden = re.search(r"^#\|\s*(hide|include: false|output: false)", source, re.M)
        said = "".join(re.findall(r"^#\|\s*(fig-alt:.*)", source, re.M))
        assert not shown or hidden or said, f"cell {cell['id']} needs a line `#| fig-alt: ...`"
        # a colon within turns it into something else, and both builders forget it without a word
        assert not said or isinstance(yaml.safe_load(said)["fig-alt"], str), f"cell {cell['id']}: put {said!r} in quotes"


def test_the_readme_has_the_alt_text(tmp_path):
    output = {"output_type": "display_data", "data": {"image/png": "AA=="}}
    cell = {"cell_type": "code", "id": "a", "source": ['#| fig-alt: "A curve"\n', "plot()"], "outputs": [output]}
    (tmp_path/"page.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert re.search(r"!\[A curve\]\(https://\S+/README_files/a-0\.png\)", readme(tmp_path/"page.ipynb")[0])


# Search and llms.txt

GLOSSARY = """<h1 class="title">Glossary</h1><section id="numbers"><table><tr><td>AULC</td><td>area under the curve</td></tr>
<tr><td>replication, random world</td><td>a number</td></tr></table></section>"""


def test_words_of_the_glossary_and_synonyms_are_found():
    pages = {"glossary.html": GLOSSARY, "citation.html": '<h1 class="title">Cite</h1>'}
    found = {entry["title"]: entry["href"] for entry in search_entries(pages)}
    assert found["AULC"] == found["random world"] == "glossary.html#numbers"
    assert found["cite"] == "citation.html"


def test_synonyms_lead_to_pages():
    names = {html_path(page) for page in all_pages()}
    from polish import SYNONYMS
    assert set(SYNONYMS) <= names


def test_llms_txt_lists_pages_with_their_lines():
    pages = {"index.html": PAGE, "study/run.html": PAGE}
    text = llms_text([(None, ["index.html"]), ("Study", ["study/run.html"])], pages, BASE)
    assert text.startswith("# al_cifar\n\n> One line.\n")
    assert "## Study\n\n- [Run](https://site/al/study/run.html): One line.\n" in text


def test_every_page_is_in_the_sidebar_once():
    listed = [page for _, pages in sections() for page in pages]
    assert sorted(listed) == all_pages()


def test_a_site_is_polished_and_its_search_grows(tmp_path):
    (tmp_path/"index.html").write_text(PAGE.replace("<img ", '<img alt="x" '))
    (tmp_path/"glossary.html").write_text(PAGE.replace("<main ", GLOSSARY.partition("</h1>")[2] + "<main "))
    (tmp_path/"search.json").write_text("[]")
    (tmp_path/"theme.css").write_text("@import url(https://fonts.googleapis.com/css2?family=A:wght@300;400);body{}")
    left = polish(tmp_path, BASE, "1.2.3", [(None, ["index.html"])])
    assert [fault.partition(":")[0] for fault in left] == ["glossary.html"]  # its picture has no alt text
    assert (tmp_path/"theme.css").read_text() == "body{}"
    assert "AULC" in (tmp_path/"search.json").read_text() and (tmp_path/"llms.txt").exists()
    assert title_of((tmp_path/"index.html").read_text()) == "Run"
    assert description_of((tmp_path/"index.html").read_text()) == "One line."


# The reference

def example(
    view: list[int],            # (n,) int64: positions
    *,
    order: str | None = None,   # `a` or `b`
    much: float = 1.5,
    **more,                     # what else there is
) -> dict[str, int]:            # by name
    "Count."


@pytest.mark.parametrize("given,text", [(str | None, "str | None"), (type(None), "None"), (None, "None"),
                                        ("PoolView", "PoolView"), (pytest.Item, "Item")])
def test_types_are_written_as_people_write_them(given, text): assert type_text(given) == text


def test_signatures():
    sig = inspect.signature(example)
    short = "example(view: list[int], *, order: str | None = None, much: float = 1.5, **more)"
    assert [parameter_text(p) for p in sig.parameters.values()][1] == "order: str | None = None"
    lines = signature_text("example", sig, False).splitlines()
    assert lines == ["example(", "    view: list[int],", "    *,", "    order: str | None = None,",
                     "    much: float = 1.5,", "    **more,", ") -> dict[str, int]"]
    assert signature_text("example", sig.replace(return_annotation=sig.empty), False) == short
    def positional(a, /, b): pass
    assert signature_text("f", inspect.signature(positional), False) == "f(a, /, b)"


def test_comments_of_arguments():
    assert comments(example) == {"view": "(n,) int64: positions", "order": "`a` or `b`", "more": "what else there is",
                                 "return": "by name"}


def page_of(tmp_path, *sources, shown=""):
    output = {"output_type": "display_data", "data": {"text/markdown": shown}}
    made = [{"cell_type": "code", "id": str(n), "source": source, "outputs": [output]} for n, source in enumerate(sources)]
    (tmp_path/"page.ipynb").write_text(json.dumps({"cells": made}))
    fold_code(tmp_path/"page.ipynb")
    return json.loads((tmp_path/"page.ipynb").read_text())["cells"]


def test_imports_and_long_sources_are_folded(tmp_path):
    show = '#| code-fold: show\n#| code-summary: "Exported source"\n'
    imports, code, short, long = page_of(tmp_path, "import os\nfrom re import sub", "import os\nos.name",
                                         show + "def f(): pass", show + "x\n"*40)
    assert imports["source"].startswith("#| code-fold: true") and "code-fold" not in code["source"]
    assert "code-fold: show" in short["source"] and "code-fold: true" in long["source"]


SOURCE = "f\n\n```` {.python .cell-code}\n'See [`Run`](https://x/run)'\n````\n\nend [`Run`](https://x/run)"


def test_a_source_is_shown_once_and_without_links(tmp_path):
    [cell] = page_of(tmp_path, "show_doc(f)", shown=SOURCE)
    text = cell["outputs"][0]["data"]["text/markdown"]
    assert "'See `Run`'" in text and text.endswith("end [`Run`](https://x/run)")
    cell, _ = page_of(tmp_path, "show_doc(f)", '#| code-summary: "Exported source"\nf', shown=SOURCE)
    assert "````" not in cell["outputs"][0]["data"]["text/markdown"]


# In a browser

@pytest.mark.slow
def test_pages_in_a_browser(tree):
    from site_check import Missing, check
    built = subprocess.run([sys.executable, "tools/docs.py"], cwd=tree, stdin=subprocess.DEVNULL, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if built.returncode == 3: pytest.skip(built.stdout)  # Python 3.10 without Quarto
    assert built.returncode == 0, built.stdout
    assert not list(broken_links(tree/"_docs", BASE))
    try: found = list(check(tree/"_docs"))
    except Missing as tool: pytest.skip(f"this machine lacks {tool}")
    assert not found, "\n".join(" ".join(map(str, fault)) for fault in found[:50])
