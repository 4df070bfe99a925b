"""What is done to nbdev's pages before a builder gets them: long code folded, the changelog filled in."""
import ast
import json
import re

# Exported definitions of more lines than this are folded.
LONG_SOURCE = 25


def show_changelog(page, log):
    "Put the text of the file `log`, without its heading, in the place that the page keeps for it."
    notebook = json.loads(page.read_text(encoding="utf-8"))
    text = log.read_text(encoding="utf-8").partition("\n")[2]
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace("<!-- CHANGELOG.md -->", text)
    page.write_text(json.dumps(notebook), encoding="utf-8")


def only_imports(source):
    "Does a cell do nothing but import?"
    try: nodes = ast.parse(source).body
    except SyntaxError: return False
    return bool(nodes) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes)


def fold_code(page):
    "Fold the imports of a page, and long definitions; show the source of a definition once."
    notebook = json.loads(page.read_text(encoding="utf-8"))
    shown = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell, after in zip(shown, [*shown[1:], None]):
        source = "".join(cell["source"])
        if only_imports(source): cell["source"] = f'#| code-fold: true\n#| code-summary: "Imports"\n{source}'
        if "Exported source" in source and source.count("\n") > LONG_SOURCE:
            cell["source"] = source.replace("code-fold: show", "code-fold: true")
        twice = after is not None and "Exported source" in "".join(after["source"])
        for output in cell["outputs"]: mend_source(output.get("data", {}), twice)
    page.write_text(json.dumps(notebook), encoding="utf-8")


def mend_source(data, twice):
    "In what `show_doc` said, take nbdev's links out of the folded source; all of it if the next cell has it."
    text = "".join(data.get("text/markdown", ""))
    def mended(found): return "" if twice else re.sub(r"\[(`[^`\n]+`)\]\(https?:[^)]*\)", r"\1", found[0])
    if text: data["text/markdown"] = re.sub(r"^```` \{\.python .*?^````\n", mended, text, flags=re.S | re.M)
