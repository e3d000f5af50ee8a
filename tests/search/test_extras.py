"""Libraries of some entries are extras of this project, which an error names."""

import importlib.metadata
import importlib.util
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
    ("kind", "name", "library", "extra"),
    [
        ("task", "timm", "timm", "timm"),
        ("task", "timm", "torchvision", "timm"),
        ("task", "torchvision", "torchvision", "torchvision"),
        ("task", "lightning", "lightning", "lightning"),
        ("task", "hf", "transformers", "transformers"),
        ("runtime", "xla", "jax", "xla"),
        ("runtime", "xla", "torchax", "xla"),
    ],
)
def test_a_missing_library_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str, library: str, extra: str
) -> None:
    lines = [f'{r}; extra == "{of}"' for of, all_of in EXTRAS.items() for r in all_of]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)

    def missing(*_: object) -> type[object]:
        raise ModuleNotFoundError("missing", name=library)

    monkeypatch.setattr(catalogue, "entry_of", missing)
    monkeypatch.delitem(sys.modules, library, raising=False)
    with pytest.raises(BadEnvironment, match=rf"pip install 'paretune\[{extra}\]'$") as error:
        catalogue.entry(kind, name)
    assert f"the {kind} {name!r} needs the package {library!r}" in str(error.value)


@pytest.mark.parametrize("library", ["jax", "torchax", "flatbuffers"])
def test_the_runtime_xla_looks_its_libraries_up_and_imports_none(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    found = importlib.util.find_spec

    def without(name: str) -> object:
        return None if name == library else found(name) or name

    for module in [m for m in sys.modules if m.startswith("objectives.runtimes.xla")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(BadEnvironment, match=f"needs the package '{library}'"):
        catalogue.entry("runtime", "xla")


@pytest.mark.parametrize("name", catalogue.names("task"))
def test_the_reference_of_a_task_is_one_of_its_settings(name: str) -> None:
    try:
        kind = catalogue.find("task", name, Task)
    except BadEnvironment as error:
        pytest.skip(str(error))
    if kind.reference is not None:
        assert fields_of(kind, f"task.{name}", {kind.reference: "x"}) == {kind.reference: "x"}
