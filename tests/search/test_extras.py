"""Libraries of some entries are extras of this project, which an error names."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest

from search import catalogue
from search.errors import BadEnvironment
from search.experiment import fields_of
from spaces import Task

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize(
    ("task", "library", "extra"),
    [
        ("timm", "timm", "timm"),
        ("timm", "torchvision", "timm"),
        ("torchvision", "torchvision", "torchvision"),
        ("lightning", "lightning", "lightning"),
        ("hf", "transformers", "transformers"),
    ],
)
def test_a_missing_library_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, task: str, library: str, extra: str
) -> None:
    lines = [f'{r}; extra == "{name}"' for name, all_of in EXTRAS.items() for r in all_of]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)

    def missing(*_: object) -> type[object]:
        raise ModuleNotFoundError("missing", name=library)

    monkeypatch.setattr(catalogue, "entry_of", missing)
    monkeypatch.delitem(sys.modules, library, raising=False)
    with pytest.raises(BadEnvironment, match=rf"pip install 'paretune\[{extra}\]'$") as error:
        catalogue.entry("task", task)
    assert f"the task {task!r} needs the package {library!r}" in str(error.value)


@pytest.mark.parametrize("name", catalogue.names("task"))
def test_the_reference_of_a_task_is_one_of_its_settings(name: str) -> None:
    try:
        kind = catalogue.find("task", name, Task)
    except BadEnvironment as error:
        pytest.skip(str(error))
    if kind.reference is not None:
        assert fields_of(kind, f"task.{name}", {kind.reference: "x"}) == {kind.reference: "x"}
