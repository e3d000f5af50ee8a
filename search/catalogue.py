"""Names of what can be searched, measured and run: the path of a file is the name of its class."""

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import TypeVar

from search.errors import BadEnvironment, UnknownName

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "spaces": "technique",
    "objectives": "objective",
    "objectives.runtimes": "runtime",
    "objectives.tasks": "task",
}


def names(package: str) -> list[str]:
    """Return what a package offers, e.g. "prune.channels", without importing any of it."""
    folder = home(package)
    pattern = "*/*.py" if package == "spaces" else "*.py"
    files = (path.relative_to(folder).with_suffix("") for path in folder.glob(pattern))
    return sorted(".".join(f.parts) for f in files if not any(p.startswith("_") for p in f.parts))


def home(package: str) -> Path:
    """Return the folder of one of our packages; on a cluster's workers each has another parent."""
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], *rest)


def find(package: str, name: str, base: type[T]) -> type[T]:
    """Return the one subclass of `base` that the file of `name` defines.

    Raises UnknownName with the nearest name, BadEnvironment when its library is not installed.
    """
    if name not in (known := names(package)):
        raise UnknownName(KINDS[package], name, known)
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        raise BadEnvironment(
            f"the {KINDS[package]} {name!r} needs the package {missing!r}, which is not installed: "
            f"pip install {missing.replace('_', '-')}"
        ) from error
    (found,) = [
        item
        for item in vars(module).values()
        if inspect.isclass(item)
        and issubclass(item, base)
        and not inspect.isabstract(item)
        and item.__module__ == module.__name__
    ]
    return found
