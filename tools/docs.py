"""Build the site into _docs/ and README.md from nbs/index.ipynb.

    python tools/docs.py           # site and README.md
    python tools/docs.py --readme  # README.md only
    python tools/docs.py --check   # exit 1 if README.md is not what nbs/index.ipynb says

The site is rendered by Quarto if that is on PATH and otherwise by smalldocs, a small Python stand-in that needs
Python 3.11. Without either (Python 3.10 and no Quarto) no site is built and the exit code is 3.
AL_CIFAR_OFFLINE=1 leaves the KaTeX that smalldocs' pages use on its CDN instead of fetching it from npm.
"""
import argparse, base64, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

ROOT = Path(__file__).resolve().parent.parent
KATEX = "https://cdn.jsdelivr.net/npm/katex@0.16.11/dist/"


def fenced(text, language=""): return f"```{language}\n{text.rstrip()}\n```"


def output_parts(cell, images):
    "The outputs of a code cell as Markdown; pictures are added to `images`, name to bytes."
    for number, output in enumerate(cell["outputs"]):
        data = output.get("data", {})
        text = "".join(output.get("text", data.get("text/plain", "")))
        if output.get("name") == "stderr": continue
        if "image/png" in data:
            name = f"README_files/{cell['id']}-{number}.png"
            images[name] = base64.b64decode("".join(data["image/png"]))
            yield f"![]({name})"
        elif "text/markdown" in data: yield "".join(data["text/markdown"]).strip()
        elif text.strip(): yield fenced(text)


def readme(notebook):
    "`notebook` as Markdown for the repository's front page, and the pictures it shows."
    parts, images = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        lines = "".join(cell["source"]).strip().splitlines()
        directives = {line[2:].strip() for line in lines if line.startswith("#|")}
        source = "\n".join(line for line in lines if not line.startswith("#|")).strip()
        if cell["cell_type"] == "raw" or "hide" in directives: continue
        if cell["cell_type"] == "markdown":
            # the site's pages lie beside index.ipynb, the repository's in nbs/
            parts.append(re.sub(r"\]\((?!\w+:|[/#])", "](nbs/", source))
            continue
        if source and "echo: false" not in directives: parts.append(fenced(source, "python"))
        parts += output_parts(cell, images)
    note = "<!-- Made from nbs/index.ipynb by tools/docs.py; edit that notebook. -->"
    return "\n\n".join([note, *filter(None, parts)]) + "\n", images


def write_readme(check):
    "Write README.md and its pictures, or with `check` only compare; are they (now) up to date?"
    text, images = readme(ROOT/"nbs/index.ipynb")
    wanted = {"README.md": text.encode(), **images}
    folder = ROOT/"README_files"
    stale = [path for path in folder.glob("*") if f"README_files/{path.name}" not in wanted]
    same = not stale and all((ROOT/n).is_file() and (ROOT/n).read_bytes() == data for n, data in wanted.items())
    if same or check: return same
    shutil.rmtree(folder, ignore_errors=True)
    if images: folder.mkdir()
    for name, data in wanted.items(): (ROOT/name).write_bytes(data)
    return True


def processed():
    "nbdev's pages for a renderer: hidden cells dropped, documentation of symbols filled in."
    # nbdev_docs and nbdev_proc_nbs would try to install Quarto where it is missing; these parts of them do not
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    return Path(proc_nbs(force=True, n_workers=2))


def name_pages(proc):
    "Give pages the names that nbdev's links use (00_oracle -> oracle), which smalldocs does not do by itself."
    names = {}
    for path in sorted(proc.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        found = re.search(r"output-file: (\w+)\.html\\n", text)
        if found is None: continue
        names[path.name] = f"{found[1]}.ipynb"
        path.unlink()
        (proc/names[path.name]).write_text(text.replace(found[0], ""), encoding="utf-8")
    for path in [*proc.glob("*.ipynb"), *proc.glob("*.yml")]:
        text = path.read_text(encoding="utf-8")
        for old, new in names.items(): text = re.sub(rf"(?<![\w/]){re.escape(old)}", new, text)
        path.write_text(text, encoding="utf-8")


def own_katex(site):
    "Serve KaTeX from the site instead of its CDN, if npm can fetch it."
    if os.environ.get("AL_CIFAR_OFFLINE") == "1" or not shutil.which("npm"): return
    with tempfile.TemporaryDirectory() as tmp:
        done = subprocess.run(["npm", "pack", "--silent", "katex@0.16.11"], cwd=tmp, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL)
        if done.returncode: return print("KaTeX could not be fetched from npm: pages use its CDN", file=sys.stderr)
        with tarfile.open(next(Path(tmp).glob("*.tgz"))) as tar: tar.extractall(tmp, filter="data")
        shutil.copytree(Path(tmp)/"package/dist", site/"katex", ignore=shutil.ignore_patterns("*.ttf", "*.woff", "*.mjs"))
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


def build():
    "Render the site into _docs/."
    site, proc = ROOT/"_docs", processed()
    quarto = shutil.which("quarto")
    if not quarto: name_pages(proc)
    render = [quarto, "render", "--no-cache"] if quarto else [sys.executable, "-m", "smalldocs.cli", "render", "-q", "."]
    subprocess.run(render, cwd=proc, check=True)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(proc/"_docs", site)
    shutil.rmtree(proc)
    if not quarto: own_katex(site)
    config = ConfigParser(delimiters=["="])
    config.read(ROOT/"settings.ini")
    broken = sorted(set(broken_links(site, config["DEFAULT"]["doc_host"] + config["DEFAULT"]["doc_baseurl"] + "/")))
    if broken: sys.exit("broken links:\n  " + "\n  ".join(broken))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write README.md only")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README.md is out of date")
    args = parser.parse_args()
    os.chdir(ROOT)  # where nbdev looks for settings.ini
    if not write_readme(args.check): sys.exit("README.md is out of date: run python tools/docs.py --readme and commit it")
    if args.check or args.readme: return
    if not shutil.which("quarto") and sys.version_info < (3, 11):
        print("No site built: it needs Quarto on PATH or Python 3.11 or newer (for smalldocs).", file=sys.stderr)
        sys.exit(3)
    build()
    print(f"site: {ROOT/'_docs'}")


if __name__ == "__main__": main()
