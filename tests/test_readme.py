"README.md is also the page of a package index, which knows no other file of the repository."
import re

from pages import ROOT

README = (ROOT/"README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)\n```$", README, re.M | re.S)


def test_links_and_images_are_absolute():
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    relative = [target for target in targets if not target.startswith(("https://", "#"))]
    assert targets and not relative, f"README.md links to {relative}: see tools/docs.py"


def test_images_have_a_text():
    images = re.findall(r"!\[(.*?)\]", README)
    assert images and all(images)


def test_files_that_it_shows_are_there():
    for branch, path in re.findall(r"\((?:https://[\w.]+)/al-cifar/al-cifar/(?:blob/)?(\w+)/([^)#]+)\)", README):
        assert branch == "main" and (ROOT/path).is_file(), path


def test_commands_that_CI_runs():
    "Each in a block of its own."
    start = "python3 -m venv .venv && . .venv/bin/activate && pip install -e "
    assert f"{start}'.[notebooks]' && papermill nbs/run_experiment.ipynb -p epsilon 0.1" in BLOCKS
    assert f"{start}'.[dev]' && pytest" in BLOCKS
