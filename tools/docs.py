"""Build the site, README.md from nbs/index.ipynb, and the sidebar in _quarto.yml from the folders of nbs/.

    python tools/docs.py            # all three; the site goes into _docs/
    python tools/docs.py --readme   # README.md only
    python tools/docs.py --sidebar  # the sidebar only
    python tools/docs.py --check    # write nothing; exit 1 if README.md or the sidebar is out of date

The site is rendered by Quarto if that is on PATH and otherwise by smalldocs, a small stand-in that needs
Python 3.11. Without either (Python 3.10 and no Quarto) no site is built and the exit code is 3.
CONTRIBUTING.md says in what the two differ. AL_CIFAR_OFFLINE=1 leaves the KaTeX that smalldocs' pages use on
its CDN instead of fetching it from npm.
"""
import argparse, base64, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from configparser import ConfigParser
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

from pages import NBS, PACKAGES, ROOT, all_pages, default_exp, html_path, page_id, pages_in_order
from polish import polish
from prepare import fold_code, show_changelog

KATEX = "https://cdn.jsdelivr.net/npm/katex@0.16.11/dist/"
# The heading of each folder's section in the sidebar; another folder is "Inside <name>".
TITLES = {"oracle": "Inside the oracle", "model": "Inside the model", "strategies": "Inside the strategies",
          "data": "Inside the data", "loop": "Inside the loop", "study": "Inside the study",
          "analysis": "Inside the analysis", "forms": "Behind the templates",
          "paper": "Inside the paper's page"}

# Pages about the site and the package, in the order of the sidebar.
ABOUT = ["glossary", "reproducibility", "reliability", "citation", "errata", "changelog"]

# The pages of nbs/tutorials in the order of the sidebar, and the network, which stands with the models.
TUTORIALS = ["first_study", "own_strategy", "own_annotator", "../model/own_model", "own_images", "own_embeddings",
             "how_many", "a_race", "scale_out", "teaching", "lesson_1", "lesson_2", "lesson_3", "lesson_solutions"]


@cache
def settings():
    "What settings.ini says: git_url, version, ..."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT/"settings.ini")
    return config["DEFAULT"]


def fenced(text, language=""): return f"```{language}\n{text.rstrip()}\n```"


def alt_text(directives):
    "What a cell's `#| fig-alt:` says, or nothing."
    said = [line.partition(":")[2].strip().strip("\"") for line in directives if line.startswith("fig-alt:")]
    return said[0] if said else ""


def output_parts(cell, images, alt):
    "The outputs of a code cell as Markdown; pictures are added to `images`, name to bytes."
    raw = f"{settings()['git_url']}/{settings()['branch']}".replace("github.com", "raw.githubusercontent.com")
    for number, output in enumerate(cell["outputs"]):
        data = output.get("data", {})
        text = "".join(output.get("text", data.get("text/plain", "")))
        if output.get("name") == "stderr": continue
        if "image/png" in data:
            name = f"README_files/{cell['id']}-{number}.png"
            images[name] = base64.b64decode("".join(data["image/png"]))
            yield f"![{alt}]({raw}/{name})"
        elif "text/markdown" in data: yield "".join(data["text/markdown"]).strip()
        elif text.strip(): yield fenced(text)


def readme(notebook):
    "`notebook` as Markdown for the repository's front page, and the pictures it shows."
    parts, images = [], {}
    files = f"{settings()['git_url']}/blob/{settings()['branch']}/nbs/"  # absolute: a package index shows it, too
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).strip().splitlines()
        directives = {line[2:].strip() for line in lines if line.startswith("#|")}
        source = "\n".join(line for line in lines if not line.startswith("#|")).strip()
        if cell["cell_type"] == "raw" or "hide" in directives: continue
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((?!\w+:|[/#])", f"]({files}", source))
            continue
        if source and "echo: false" not in directives: parts.append(fenced(source, "python"))
        parts += output_parts(cell, images, alt_text(directives))
    note = "<!-- Made from nbs/index.ipynb by tools/docs.py; edit that notebook. -->"
    return "\n\n".join([note, *filter(None, parts)]) + "\n", images


def write_readme(check):
    "Write README.md and its pictures, or with `check` only compare; are they (now) up to date?"
    text, images = readme(ROOT/"nbs/index.ipynb")
    wanted = {"README.md": text.encode(), **images}
    folder = ROOT/"README_files"
    stale = [path for path in folder.glob("*") if f"README_files/{path.name}" not in wanted]
    def is_there(name): return (ROOT/name).is_file() and (ROOT/name).read_bytes() == wanted[name]
    same = not stale and all(map(is_there, wanted))
    if same or check: return same
    shutil.rmtree(folder, ignore_errors=True)
    if images: folder.mkdir()
    for name, data in wanted.items(): (ROOT/name).write_bytes(data)
    return True


def sections():
    "The sidebar: pairs of a heading (None: no section) and its pages."
    pages = all_pages()
    first = [NBS/"index.ipynb", NBS/"paper.ipynb", NBS/"strategies/gallery.ipynb"]
    tutorials = [(NBS/"tutorials"/f"{name}.ipynb").resolve() for name in TUTORIALS]
    studies = [page for page in pages if page.parent == NBS/"studies"]
    exporting = [page for page in pages if default_exp(page)]
    about = [NBS/f"{name}.ipynb" for name in ABOUT]
    run_it = [page for page in pages if page not in first + studies + tutorials + about + exporting]
    top = [page for page in exporting if page.parent == NBS]
    faces = [page for page in top if page.name[0].isdigit()]
    yield None, first
    yield "Studies", studies
    yield "Tutorials", tutorials
    yield "Run it", sorted(run_it, key=lambda page: (not page.name.startswith("run_"), page.name))
    yield "About", about
    yield "The simulator", faces + pages_in_order([page for page in top if page not in faces])
    folders = {page.parent.relative_to(NBS).as_posix() for page in exporting if page not in top}
    known = [name for name in PACKAGES if name in folders]
    for name in known + sorted(folders.difference(known)):
        inside = [page for page in exporting if page.parent == NBS/name]
        yield TITLES.get(name, f"Inside {name}"), pages_in_order(inside)


def sidebar():
    "The lines of _quarto.yml that list the pages."
    for title, pages in sections():
        indent = "      "
        if title and pages:
            yield f'{indent}- section: "{title}"'
            indent += "    "
            yield f"{indent[2:]}contents:"
        for page in pages: yield f"{indent}- {page_id(page)}.ipynb"


def write_sidebar(check):
    "Write the sidebar, which ends _quarto.yml, or with `check` only compare; is it (now) up to date?"
    path = ROOT/"_quarto.yml"
    text = path.read_text(encoding="utf-8")
    head, contents, _ = text.partition("    contents:\n")
    wanted = head + contents + "\n".join(sidebar()) + "\n"
    if text == wanted or check: return text == wanted
    path.write_text(wanted, encoding="utf-8")
    return True


def processed():
    "nbdev's pages for a renderer: hidden cells dropped, documentation of symbols filled in."
    # nbdev_docs and nbdev_proc_nbs would try to install Quarto if it is missing; these parts of them do not
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    proc = Path(proc_nbs(force=True, n_workers=2))
    for page in proc.rglob("*.ipynb"): fold_code(page)
    show_changelog(proc/"changelog.ipynb", ROOT/"CHANGELOG.md")
    (proc/"llms.txt").write_text("")  # the footer links to it; `polish` writes it
    return proc


def name_pages(proc):
    "Give pages the names that nbdev's links use (00_oracle -> oracle), which smalldocs does not do itself."
    # not the files of the repository, nbs/00_oracle.ipynb, which keep their names
    numbered = re.compile(r"(?<!\w)(?<!nbs/)\d+[a-zA-Z0-9]*_(\w+\.ipynb)")
    for path in [*proc.rglob("*.ipynb"), *proc.glob("*.yml")]:
        text = re.sub(r"output-file: \w+\.html\\n", "", path.read_text(encoding="utf-8"))
        path.write_text(numbered.sub(r"\1", text), encoding="utf-8")
        path.rename(path.with_name(numbered.sub(r"\1", path.name)))


def own_katex(site):
    "Serve KaTeX from the site instead of its CDN, if npm can fetch it."
    if os.environ.get("AL_CIFAR_OFFLINE") == "1" or not shutil.which("npm"): return
    with tempfile.TemporaryDirectory() as tmp:
        done = subprocess.run(["npm", "pack", "--silent", "katex@0.16.11"], cwd=tmp, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL)
        if done.returncode: return print("No KaTeX from npm: pages use its CDN", file=sys.stderr)
        with tarfile.open(next(Path(tmp).glob("*.tgz"))) as tar: tar.extractall(tmp, filter="data")
        unused = shutil.ignore_patterns("*.ttf", "*.woff", "*.mjs")
        shutil.copytree(Path(tmp)/"package/dist", site/"katex", ignore=unused)
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        page.write_text(page.read_text(encoding="utf-8").replace(KATEX, f"{up}katex/"), encoding="utf-8")


class Page(HTMLParser):
    "The anchors and links of one page."
    def __init__(self, text):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given.get("id"), given.get("name")}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]

    def handle_data(self, data):
        # a link that stayed Markdown, such as one around a name that nbdev links by itself
        self.links += re.findall(r"\]\(\S+\.ipynb[^)\s]*\)", data)


def broken_links(site, base):
    "Links within the site (also written as absolute ones under `base`) whose page or anchor does not exist."
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        here = base + path.relative_to(site).as_posix()
        for link in page.links:
            url = urljoin(here, link)
            if not url.startswith(base): continue
            target = site/unquote(urlparse(url).path.removeprefix(urlparse(base).path))
            target = target/"index.html" if target.is_dir() else target
            anchor = unquote(urlparse(url).fragment)
            known = anchor in pages[target].anchors if target in pages and anchor else True
            if not target.is_file() or not known: yield f"{path.relative_to(site)}: {link}"


def not_rendered(site):
    "Pages without a html file of their own."
    pages = {page_id(page): html_path(page) for page in all_pages()}
    for name, html in pages.items():
        if list(pages.values()).count(html) > 1: yield f"{name}: shares {html} with another page"
        elif not (site/html).is_file(): yield f"{name}: there is no {html}"


def build():
    "Render the site into _docs/."
    site, proc = ROOT/"_docs", processed()
    quarto = shutil.which("quarto")
    smalldocs = [sys.executable, "-m", "smalldocs.cli", "render", "-q", "."]
    if not quarto: name_pages(proc)
    subprocess.run([quarto, "render", "--no-cache"] if quarto else smalldocs, cwd=proc, check=True)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(proc/"_docs", site)
    shutil.rmtree(proc)
    if not quarto: own_katex(site)
    base = settings()["doc_host"] + settings()["doc_baseurl"] + "/"
    contents = [(title, list(map(html_path, pages))) for title, pages in sections() if pages]
    wrong = polish(site, base, settings()["version"], contents)
    # after the rest: it is a page of its own kind, without the site's header
    subprocess.run([sys.executable, "tools/explorer.py", site/"explore.html"], check=True)
    if missing := list(not_rendered(site)): sys.exit("pages not rendered:\n  " + "\n  ".join(missing))
    if broken := sorted(set(broken_links(site, base))): sys.exit("broken links:\n  " + "\n  ".join(broken))
    if wrong: sys.exit("faults of pages:\n  " + "\n  ".join(wrong))


def main():
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--readme", action="store_true", help="write README.md only")
    parser.add_argument("--sidebar", action="store_true", help="write the sidebar only")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if one is out of date")
    args = parser.parse_args()
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    writers = {"readme": write_readme, "sidebar": write_sidebar}
    chosen = [name for name in writers if getattr(args, name)]
    for name in chosen or writers:
        done = writers[name](args.check)
        if not done: sys.exit(f"The {name} is out of date: run python tools/docs.py --{name}")
    if args.check or chosen: return
    if not shutil.which("quarto") and sys.version_info < (3, 11):
        print("No site built: it needs Quarto on PATH or (for smalldocs) Python 3.11.", file=sys.stderr)
        sys.exit(3)
    build()
    print(f"site: {ROOT/'_docs'}")


if __name__ == "__main__": main()
