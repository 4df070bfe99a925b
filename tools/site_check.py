"""Look at the built site in a browser: console, axe, width at 390 px, dark mode, search.

    python tools/site_check.py                      # every page of _docs/
    python tools/site_check.py index.html paper.html --site DIR --json FILE

It needs playwright with a Chromium (its own, or one on PATH), and npm, which fetches axe-core. Without them
the exit code is 3. What needs no browser (links, alt text, headings, ...) tools/docs.py checks in each build.
"""
import argparse, json, shutil, subprocess, sys, tarfile, tempfile
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

AXE = "axe-core@4.14.1"
RULES = {"light": {}, "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}}}
SIZES = {1280: 800, 390: 844}
# What a visitor types, and a page that must be among the first three of the answers.
QUERIES = {"margin": "strategies/uncertainty.html", "cite": "citation.html", "AULC": "glossary.html",
           "own network": "model/own_model.html", "random world": "glossary.html", "changelog": "changelog.html"}
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
IS_DARK = "getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).every(c => c < 90)"
HITS = "[...document.querySelectorAll('a.search-result')].map(a => a.getAttribute('href'))"


class Missing(Exception):
    "A tool that the check needs is not here."


def axe_source():
    "axe-core's script, from npm: it is under MPL-2.0 and is not part of this repository."
    if not shutil.which("npm"): raise Missing("npm, which fetches axe-core")
    with tempfile.TemporaryDirectory() as tmp:
        command = ["npm", "pack", "--silent", AXE]
        done = subprocess.run(command, cwd=tmp, stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode: raise Missing(f"{AXE}, which npm could not fetch")
        with tarfile.open(next(Path(tmp).glob("*.tgz"))) as tar:
            return tar.extractfile("package/axe.min.js").read().decode()


@contextmanager
def served(site):
    "The address of a server of the folder `site`, on this machine only."
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def browser():
    "A Chromium without a window."
    try: from playwright.sync_api import Error, sync_playwright
    except ImportError: raise Missing("playwright (pip install playwright)") from None
    with sync_playwright() as play:
        try: found = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as error: raise Missing(f"Chromium: {error.message.splitlines()[0]}") from None
        yield found
        found.close()


def opened(chromium, width, mode, home):
    "A tab of one width and colour scheme that reaches nothing but `home`, and the faults that it hears of."
    size = {"width": width, "height": SIZES[width]}
    context = chromium.new_context(viewport=size, color_scheme=mode, reduced_motion="reduce")
    tab, heard = context.new_page(), []
    def answer(route):
        if route.request.url.startswith((home, "data:", "blob:")): return route.continue_()
        heard.append(("outside", route.request.url))
        route.abort()
    tab.route("**/*", answer)
    def listen(message):
        if message.type in ("error", "warning"): heard.append(("console", message.text))
    tab.on("console", listen)
    tab.on("pageerror", lambda error: heard.append(("console", str(error))))
    return tab, heard


def look(tab, heard, mode, axe):
    "The faults of the page in `tab`: pairs of a rule and what breaks it."
    if wide := tab.evaluate(TOO_WIDE): heard.append(("overflow", f"{wide} px too wide"))
    if tab.evaluate(IS_DARK) != (mode == "dark"): heard.append(("scheme", f"the page is not {mode}"))
    tab.evaluate(axe)
    for violation in tab.evaluate("rules => axe.run(rules).then(found => found.violations)", RULES[mode]):
        for node in violation["nodes"]: heard.append((f"axe {violation['id']}", node["html"][:160]))
    return heard


def searched(tab, home):
    "The faults of the search box, a query at a time."
    for query, wanted in QUERIES.items():
        tab.goto(home + "index.html")
        tab.locator("input[type=search]").first.fill(query)
        tab.wait_for_timeout(900)
        first = [link.split("#")[0].removeprefix("./") for link in tab.evaluate(HITS)]
        best = list(dict.fromkeys(first))[:3]
        if wanted not in best: yield "search", f"{query}: {wanted} is not among {best}"


def check(site, pages=(), modes=((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"))):
    "Tuples (page, width, mode, rule, what) of all faults."
    axe, site = axe_source(), Path(site)
    pages = pages or sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    with served(site) as home, browser() as chromium:
        for width, mode in modes:
            tab, heard = opened(chromium, width, mode, home)
            for page in pages:
                heard.clear()
                tab.goto(home + page, wait_until="load")
                for rule, what in look(tab, heard, mode, axe): yield page, width, mode, rule, what
        tab, _ = opened(chromium, 1280, "light", home)
        for rule, what in searched(tab, home): yield "index.html", 1280, "light", rule, what


def main():
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("pages", nargs="*", help="pages such as paper.html; all if none is named")
    parser.add_argument("--site", default="_docs", help="the built site's folder")
    parser.add_argument("--json", help="a file for the list of faults")
    args = parser.parse_args()
    try: faults = list(check(args.site, args.pages))
    except Missing as tool:
        print(f"Not checked, since this machine lacks {tool}", file=sys.stderr)
        sys.exit(3)
    for fault in faults: print(*fault)
    for (width, mode, rule), count in sorted(Counter(fault[1:4] for fault in faults).items()):
        print(f"{count:6} {rule} at {width} px, {mode}")
    if args.json: Path(args.json).write_text(json.dumps(faults))
    sys.exit(bool(faults))


if __name__ == "__main__": main()
