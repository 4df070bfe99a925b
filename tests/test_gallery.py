"The gallery shows every strategy of the package, with its formula, its cost and a link to its page."
import re

import pytest
from pages import NBS, cells, module_path

from al_cifar.strategies import STRATEGIES

PAGE = NBS/"strategies/gallery.ipynb"
OURS = [name for name in STRATEGIES if STRATEGIES[name].__module__.startswith("al_cifar.")]


def texts(kind):
    "The cells of a kind, or what code cells printed."
    if kind == "printed":
        outputs = [output for cell in cells(PAGE) for output in cell.get("outputs", ())]
        return ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    return ["".join(cell["source"]) for cell in cells(PAGE) if cell["cell_type"] == kind]


def card(name):
    "The Markdown cell whose table has a row for the strategy, and that row."
    rows = [(text, line) for text in texts("markdown") for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, f"the gallery must have one row for {name}, it has {len(rows)}"
    return rows[0]


@pytest.mark.parametrize("name", OURS)
def test_strategy_has_a_card(name):
    text, row = card(name)
    assert len(row.strip("| ").split(" | ")) >= 2, f"{name} has no formula"
    home = STRATEGIES[name].__module__.rpartition(".")[2]
    assert home == "contract" or f"]({home}.ipynb)" in text, f"the card of {name} links to another page than {home}"
    assert any(re.search(rf"^{name}\b", printed, re.M) for printed in texts("printed")), f"{name} was not drawn"


def test_pages_of_the_cards_exist():
    links = re.findall(r"^## \[[^]]+\]\((\w+)\.ipynb\)", "\n".join(texts("markdown")), re.M)
    assert len(links) > 15
    for name in links: assert module_path(NBS/f"strategies/{name}.ipynb"), name


def test_costs_name_strategies_that_there_are():
    (table,) = re.findall(r"^SECONDS = \{(.*?)\}", "\n".join(texts("code")), re.M | re.S)
    names = re.findall(r'"(\w+)":', table)
    assert set(names) <= set(OURS) and len(names) == len(set(names))
