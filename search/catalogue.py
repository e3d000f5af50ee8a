"""Names of what an experiment can name: the path of an entry is the name of its class."""

import importlib.util
from pathlib import Path
from typing import TypeVar

from search.errors import BadEnvironment, UnknownName
from spaces import entry_of

T = TypeVar("T")
PACKAGES = {
    "technique": "spaces.techniques",
    "objective": "objectives.metrics",
    "runtime": "objectives.runtimes",
    "task": "objectives.tasks",
    "device": "spaces.devices",
}
"""The catalogues by what their entries are. A technique's name has its family before a dot."""


def names(kind: str) -> list[str]:
    """Return the names of a catalogue, e.g. "prune.channels", without importing any entry."""
    folder = home(PACKAGES[kind])
    depth = "*/*" if kind == "technique" else "*"
    files = [f.with_suffix("") for f in folder.glob(f"{depth}.py")]
    packages = [f.parent for f in folder.glob(f"{depth}/__init__.py")]
    found = (entry.relative_to(folder).parts for entry in (*files, *packages))
    return sorted(".".join(parts) for parts in found if parts[-1] != "__init__")


def home(package: str) -> Path:
    """Return the folder of one of our packages; on a cluster's workers each has another parent."""
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], *rest)


def find(kind: str, name: str, base: type[T]) -> type[T]:
    """Return the one subclass of `base` that the entry of a name defines.

    Raises UnknownName with the nearest name, BadEnvironment when its library is not installed.
    """
    if name not in (known := names(kind)):
        raise UnknownName(kind, name, known)
    try:
        return entry_of(PACKAGES[kind], name, base)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        raise BadEnvironment(
            f"the {kind} {name!r} needs the package {missing!r}, which is not installed: "
            f"pip install {missing.replace('_', '-')}"
        ) from error
