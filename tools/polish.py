"""What neither builder of the site does: last changes to its HTML files, `llms.txt`, words for the search.

tools/docs.py calls `polish` after Quarto or smalldocs. Both write the same ids and classes; a step that finds
nothing to do changes nothing.
"""
import html
import json
import re
from collections import Counter
from pathlib import PurePosixPath
from urllib.parse import quote

# What people look for, and do not find in a title: a page and other words for it.
SYNONYMS = {
    "citation.html": ["cite", "citation", "BibTeX", "how to cite"],
    "model/own_model.html": ["own network", "custom model", "my own network", "own architecture"],
    "strategies.html": ["own strategy", "custom strategy", "acquisition function", "query strategy"],
    "components.html": ["own component", "custom component", "plugin"],
    "data/folder.html": ["own images", "own data", "custom data set"],
    "changelog.html": ["changelog", "release notes", "what changed"],
    "errata.html": ["errata", "corrections", "mistakes in the paper"],
    "reproducibility.html": ["reproduce", "same results", "determinism", "seed"],
    "forms/cli.html": ["command line", "terminal", "CLI"],
    "study/executors.html": ["cluster", "Slurm", "Dask", "parallel"],
    "study/cohort.html": ["GPU", "CUDA"],
}
TITLE = re.compile(r'<h1 class="title">(.*?)</h1>', re.S)
DESCRIPTION = re.compile(r'<meta name="description" content="([^"]*)"')
# A link that opens and closes a section has no address, so no key reaches it: it becomes a button.
FOLDS = re.compile(r'<a class="([^"]*)"( data-bs-toggle="collapse"[^>]*?) role="navigation"([^>]*)>(.*?)</a>',
                   re.S)
LABELS = {'<nav class="navbar': "Site", '<nav id="quarto-sidebar"': "Pages", '<nav id="TOC"': "On this page",
          '<nav class="quarto-secondary-nav"': "Where you are", '<nav class="page-navigation"': "Next pages"}


def up(page): return "../" * page.count("/")


def relative_links(text, page, base):
    "Links to symbols are absolute with nbdev; relative ones keep a preview in itself."
    return text.replace(f'href="{base}', f'href="{up(page)}')


def plain(text): return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()


def title_of(text):
    found = TITLE.search(text)
    return plain(found[1]) if found else ""


def description_of(text):
    found = DESCRIPTION.search(text)
    return plain(found[1]) if found else ""


def head(text, page, base):
    "The page's own address, and the picture that is shown where a link to it is shared."
    address = base + quote(page.removesuffix("index.html"))
    others = r'<link rel="canonical"[^>]*>|<meta (?:property="og:image|name="twitter:image)[^>]*>'
    text = re.sub(others, "", text)
    added = [f'<link rel="canonical" href="{address}">', f'<meta property="og:url" content="{address}">',
             '<meta property="og:type" content="website">']
    for name in ('property="og:image"', 'name="twitter:image"'):
        added.append(f'<meta {name} content="{base}social.png">')
    alt = "al_cifar: does active learning pay when annotators err?"
    added.append(f'<meta property="og:image:alt" content="{alt}">')
    added.append(f'<script src="{up(page)}site.js" defer></script>')
    return text.replace("</head>", "".join(added) + "</head>", 1)


def landmarks(text, page, base):
    "A link that skips to the content, and a name for each part of the page that a screen reader lists."
    # the colours of the bar follow the page's mode
    text = text.replace('bg-light" data-bs-theme="light"', 'bg-light"', 1)
    skip = '<a class="skip-link" href="#quarto-document-content">Skip to the content</a>'
    text = re.sub(r"(<body[^>]*>)", rf"\1{skip}", text, count=1)
    text = text.replace('id="quarto-document-content"', 'id="quarto-document-content" tabindex="-1"', 1)
    for start, label in LABELS.items():
        name = start.removeprefix("<")
        text = re.sub(rf"<{name}(?![^>]*aria-label)", f'<{name.split(" ")[0]} aria-label="{label}" '
                      + name.split(" ", 1)[1], text)
    # the breadcrumbs stand twice, once for phones
    return text.replace('quarto-title-breadcrumbs d-none d-lg-block" aria-label="breadcrumb"',
                        'quarto-title-breadcrumbs d-none d-lg-block" aria-label="Section"')


def buttons(text, page, base):
    "The headings of the sidebar's sections are buttons; the arrow beside each is for the mouse only."
    def button(found):
        classes, target, rest, inside = found.groups()
        if "sidebar-item-toggle" not in classes:
            return f'<button type="button" class="{classes}"{target}{rest}>{inside}</button>'
        rest = re.sub(r' aria-(?:label|expanded)="[^"]*"', "", rest)
        return f'<span aria-hidden="true" class="{classes}"{target}{rest}>{inside}</span>'
    return FOLDS.sub(button, text)


def scroll_boxes(text, page, base):
    "Every table of data in a box of its own, which may be wider than a phone."
    text = re.sub(r'<table border="1" class="dataframe">', '<table class="dataframe">', text)
    table = re.compile(r'<table class="dataframe">.*?</table>', re.S)
    text = table.sub(r'<div class="sd-table">\g<0></div>', text)
    # a heading that is a formula alone has no text that every reader finds
    formula = re.compile(r'<th([^>]*)>(<span class="math inline">\\\((.*?)\\\)</span>)</th>')
    text = formula.sub(r'<th\1><span aria-hidden="true">\2</span><span class="visually-hidden">\3</span></th>', text)
    # a heading of a column that says nothing is no heading
    return re.sub(r"<th([^>]*)>\s*</th>", r"<td\1></td>", text)


def heading_levels(text, page, base):
    "A symbol's heading that no section of the page holds is one level below the title."
    before, first, after = text.partition("<h2 class=\"anchored\"")
    return before.replace("<h3 id=", '<h3 aria-level="2" id=') + first + after


def pictures(text, page, base):
    "Every picture on a card that stays light, since figures have dark ink."
    drawn = re.compile(r'<img(?=[^>]*\bsrc="data:image/)([^>]*)\bclass="img-fluid')
    return drawn.sub(r'<img\1class="figure-card img-fluid', text)


STEPS = (relative_links, head, landmarks, buttons, scroll_boxes, heading_levels, pictures)


def polish_page(text, page, base, version):
    for step in STEPS: text = step(text, page, base)
    return text.replace("al_cifar VERSION", f"al_cifar {version}")


def faults(text, page=""):
    "What no page may have, in words."
    for image in re.findall(r"<img\b[^>]*>", text):
        if not re.search(r'\balt="[^"]', image):
            yield f"a picture without alt text, say it by `#| fig-alt:` in its cell: {image[:60]}"
    body = text.partition("</head>")[2]
    if len(re.findall(r"<h1\b", body)) != 1: yield "not exactly one heading of the first rank"
    if "NoneType" in body: yield "a signature with NoneType"
    for code in map(plain, re.findall(r"<code[^>]*>(.*?)</code>", body, re.S)):
        if found := re.search(r"\[[^\]\n]*\]\(https?://[^)]*\)", code): yield f"raw Markdown in code: {found[0]}"
    if not DESCRIPTION.search(text): yield "no description"
    ids = re.findall(r'\sid="([^"]*)"', body)
    double = sorted(name for name, count in Counter(ids).items() if count > 1)
    if double: yield f"ids that are used twice: {double}"


def entry(href, title, section, text):
    about = {"title": title, "section": section, "text": text}
    return {"objectID": f"{href}?{quote(title)}", "href": href} | about


def glossary_entries(text):
    "A search entry for each word of the glossary."
    for part in re.findall(r"<section id=.*?</section>", text, re.S):
        anchor = re.search(r'id="([^"]*)"', part)[1]
        for words, meaning in re.findall(r"<tr>\s*<td[^>]*>(.*?)</td>\s*<td[^>]*>(.*?)</td>", part, re.S):
            for word in plain(words).split(", "):
                yield entry(f"glossary.html#{anchor}", word, "Glossary", plain(meaning))


def search_entries(pages):
    "Search entries for words that titles and texts of pages do not have in the first place."
    for href, words in SYNONYMS.items():
        if href not in pages: continue
        about = title_of(pages[href]), description_of(pages[href])
        for word in words: yield entry(href, word, *about)
    if "glossary.html" in pages: yield from glossary_entries(pages["glossary.html"])


def llms_text(sections, pages, base):
    "The list of pages for readers that are programs: a heading per section, a line per page."
    lines = ["# al_cifar", "", f"> {description_of(pages['index.html'])}"]
    for heading, names in sections:
        lines += ["", f"## {heading or 'Start'}", ""]
        for name in names:
            lines.append(f"- [{title_of(pages[name])}]({base}{name}): {description_of(pages[name])}")
    return "\n".join(lines) + "\n"


def drop_web_fonts(site):
    "Themes ask another site for their fonts; the reader's own do as well, and nobody is told who reads."
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        kept = re.sub(r"@import\s+url\([^)]*fonts\.googleapis\.com[^)]*\);?", "", text)
        if kept != text: path.write_text(kept, encoding="utf-8")


def polish(site, base, version, sections):
    "Change the pages of the folder `site`, write llms.txt, add to the search; give the faults that are left."
    drop_web_fonts(site)
    pages = {}
    for path in sorted(site.rglob("*.html")):
        page = PurePosixPath(path.relative_to(site)).as_posix()
        pages[page] = polish_page(path.read_text(encoding="utf-8"), page, base, version)
        path.write_text(pages[page], encoding="utf-8")
    (site/"llms.txt").write_text(llms_text(sections, pages, base), encoding="utf-8")
    index = site/"search.json"
    if index.exists():
        entries = json.loads(index.read_text(encoding="utf-8")) + list(search_entries(pages))
        index.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return [f"{page}: {fault}" for page, text in pages.items() for fault in faults(text, page)]
