"What can be said to an experiment: each value is taken or refused in one short sentence that names its parameter."
from pathlib import Path

import pytest

from al_cifar.forms.command import main
from al_cifar.forms.errors import ExperimentError
from al_cifar.forms.form import EXPERIMENT, STUDY

FORMS = pytest.mark.parametrize("form", (EXPERIMENT, STUDY), ids=("experiment", "study"))


@FORMS
@pytest.mark.parametrize("name", ("out_dir", "data_root"))
def test_home_is_expanded(form, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(getattr(form.read({name: "~/here"}), name)) == tmp_path/"here"


WRONG = [(name, value) for name in ("out_dir", "data_root") for value in ("", 5, True, ["a"], 1.5)]
WRONG += [("replications", 10**7), ("replications", 10**400), ("evaluators", 10**5000), ("replications", True), ("replications", float("nan")),
          ("evaluators", 10**400), ("evaluators", None), ("lr", float("inf")), ("lr", True), ("dataset", ""),
          ("dataset", 5), ("strategies", None), ("strategies", 5), ("strategies", [5])]


@FORMS
@pytest.mark.parametrize("name, value", WRONG, ids=lambda x: type(x).__name__ if isinstance(x, int) else repr(x)[:20])
def test_wrong_value_is_named(form, name, value):
    with pytest.raises(ExperimentError) as error: form.read({name: value})
    text = str(error.value)
    assert name in text
    assert len(text) < 200


def test_folder_without_data_root():
    with pytest.raises(SystemExit, match="data_root"): main(["--dataset", "folder", "--dry_run"])


def test_command_without_arguments_explains_itself(monkeypatch, capsys):
    import al_cifar.forms.command as command
    monkeypatch.setattr(command, "prepare", lambda *_: pytest.fail("it would have run the whole grid"))
    main([])
    assert "--replications" in capsys.readouterr().out
