"""Catalogues of entries that an experiment can name: the path of a file is the name of its class.

A name may also be that of an entry point of an installed package (group `paretune.techniques`,
`paretune.objectives`, ...) or an address: `FILE.py:CLASS` for a file of the user, relative to the
experiment's folder, or `MODULE:CLASS` for an importable module.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_origin

from search.errors import BadEnvironment, BadExperiment, UnknownName
from spaces import address_of, entry_of, resolve, said

T = TypeVar("T")

DISTRIBUTION = "paretune"
"""Name of this project's distribution, whose extras have the libraries of some entries."""


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """The package that holds a catalogue's entries, and their base class."""

    package: str
    base: str
    """Address of the base class."""
    depth: int = 1
    """Number of dot-separated parts of a name."""


CATALOGUES = {
    "technique": Catalogue("spaces.techniques", "spaces:Technique", depth=2),
    "objective": Catalogue("objectives.metrics", "objectives:Objective"),
    "runtime": Catalogue("objectives.runtimes", "objectives:Runtime"),
    "task": Catalogue("objectives.tasks", "spaces:Task"),
    "sampler": Catalogue("search.samplers", "search.samplers:Sampler"),
    "executor": Catalogue("search.executors", "search.executors:Executor"),
    "device": Catalogue("spaces.devices", "spaces.devices:Device"),
}
"""The catalogues by the kind of their entries."""


def names(kind: str) -> list[str]:
    """Return the names in a catalogue, e.g. "prune.channels", without importing any entry."""
    catalogue = CATALOGUES[kind]
    folder, depth = home(catalogue.package), "/".join("*" * catalogue.depth)
    files = [f.with_suffix("") for f in folder.glob(f"{depth}.py")]
    packages = [f.parent for f in folder.glob(f"{depth}/__init__.py")]
    paths = (entry.relative_to(folder).parts for entry in (*files, *packages))
    own_names = {".".join(parts) for parts in paths if parts[-1] != "__init__"}
    return sorted(own_names | _entry_points(kind).keys())


def home(package: str) -> Path:
    """Return the folder of one of our packages, found by import: Ray workers have it elsewhere."""
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], *rest)


def find(kind: str, name: str, base: type[T], folder: Path | None = None) -> type[T]:
    """Return the class with a name, typed as a subclass of `base`; raises what `entry` raises."""
    return cast(type[T], entry(kind, name, folder))


def entry(kind: str, name: str, folder: Path | None = None) -> type[Any]:
    """Return the class with a name; paths in addresses start at `folder`.

    Raises UnknownName with the nearest name, BadExperiment if an address has no such class, and
    BadEnvironment if a package is not installed.
    """
    base = resolve(CATALOGUES[kind].base)
    if ":" in name:
        return _at_address(kind, name, base, folder)
    if name not in (known := names(kind)):
        raise UnknownName(kind, name, known)
    points = _entry_points(kind)
    try:
        if name in points:
            return _checked(kind, name, points[name].load(), base)
        return entry_of(CATALOGUES[kind].package, name, base)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        raise BadEnvironment(
            f"the {kind} {name!r} needs the package {missing!r}, which is not installed: "
            f"pip install {_source_of(missing, name)}"
        ) from error


def _source_of(module: str, name: str) -> str:
    """Return the extra of this project that has a package, preferably the entry's own, or it."""
    package = module.replace("_", "-")
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    found = [re.fullmatch(rf"{package}\b.*extra == ['\"](.+)['\"]", r) for r in requirements]
    extras = sorted(match[1] for match in found if match and match[1] != "test")
    if not extras:
        return package
    return f"'{DISTRIBUTION}[{name if name in extras else extras[0]}]'"


def name_of(kind: str, entry_class: type, folder: Path | None = None) -> str:
    """Return the name by which `entry` finds a class.

    That is the path of one of our entries, the name of an entry point, or else the class's address,
    in which the file is relative to `folder` if inside of it. Raises Unreachable if another process
    cannot import the class.
    """
    catalogue = CATALOGUES[kind]
    if entry_class.__module__.startswith(f"{catalogue.package}."):
        parts = entry_class.__module__.removeprefix(f"{catalogue.package}.").split(".")
        return ".".join(parts[: catalogue.depth])
    for name, point in _entry_points(kind).items():
        if point.value == f"{entry_class.__module__}:{entry_class.__qualname__}":
            return name
    return address_of(entry_class, folder)


def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    points = _all_entry_points(tuple(sys.path))
    return {point.name: point for point in points if point.group == f"paretune.{kind}s"}


@functools.cache  # it reads a file of every installed package, and a check looks up thousands
def _all_entry_points(sys_path: tuple[str, ...]) -> list[importlib.metadata.EntryPoint]:
    by_package = [d.entry_points for d in importlib.metadata.distributions(path=list(sys_path))]
    return [p for points in by_package for p in points if p.group.startswith("paretune.")]


def _at_address(kind: str, address: str, base: type[Any], folder: Path | None) -> type[Any]:
    try:
        value = resolve(address, folder)
    except Exception as error:  # the user's module may raise anything
        raise BadExperiment(f"the {kind} {address!r} cannot be loaded: {said(error)}") from error
    return _checked(kind, address, value, base)


def _checked(kind: str, name: str, value: Any, base: type[Any]) -> type[Any]:
    if not (inspect.isclass(value) and issubclass(value, base)) or inspect.isabstract(value):
        raise BadExperiment(
            f"the {kind} {name!r} must be a class that extends {base.__module__.split('.')[0]}."
            f"{base.__name__} and defines all its abstract methods, got {value!r}"
        )
    for fault in _faults(value, base):
        raise BadExperiment(f"the {kind} {name!r} {fault}")
    return cast(type[Any], value)


def _faults(value: type[Any], base: type[Any]) -> Iterator[str]:
    """Yield what a class lacks besides its methods."""
    for attribute, annotation in inspect.get_annotations(base).items():
        if _is_class_variable(annotation) and not hasattr(value, attribute):
            yield f"lacks the class attribute {attribute!r}: see {base.__module__}.{base.__name__}"
    fields = [k for k, a in inspect.get_annotations(value).items() if not _is_class_variable(a)]
    if dataclasses.is_dataclass(base) and fields and "__dataclass_fields__" not in vars(value):
        yield (
            f"declares {fields[0]!r} but is no dataclass: put "
            "@dataclasses.dataclass(frozen=True, kw_only=True) above it"
        )


def _is_class_variable(annotation: Any) -> bool:
    return annotation is ClassVar or get_origin(annotation) is ClassVar
