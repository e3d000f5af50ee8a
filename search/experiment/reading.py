"""Parse the tables of an experiment, as TOML or Python yields them, into its parts."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives import Runtime, Target
from search import catalogue
from search.errors import BadEnvironment, BadExperiment, UnknownName
from search.experiment.fields import declared_type, fields_of, instantiate, require
from spaces import (
    Choice,
    Dimension,
    Entries,
    Interval,
    Slot,
    Space,
    Task,
    Technique,
    widened,
)
from spaces.devices import device_names

RANGE = ("low", "high", "step", "log")


def duration(value: Any) -> float:
    """Return the seconds of 90, "90s", "20m" or "1.5h"; raises BadExperiment for any other form."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(value))
    if not match or float(match[1]) <= 0 or isinstance(value, bool):
        raise BadExperiment(f"a time is written as 90s, 20m or 1.5h, got {value!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def name_from(value: Any) -> str:
    """Return the name of an experiment; raises BadExperiment if it cannot name a folder."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", value):
        raise BadExperiment(
            f"name must be up to 64 letters, digits, '-', '_' or '.', starting with a letter or "
            f"digit, got {value!r}: it names the run's folder"
        )
    return value


def integer(key: str, value: Any, *, low: int, high: int = 2**31) -> int:
    """Return an integer from `low` to `high`; raises BadExperiment for any other value."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadExperiment(f"{key} must be an integer from {low} to {high}, got {value!r}")
    return value


def positive(key: str, value: Any) -> float:
    """Return a number above 0; raises BadExperiment for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise BadExperiment(f"{key} must be a number above 0, got {value!r}")
    return float(value)


def required_table(key: str, value: Any) -> Mapping[str, Any]:
    """Return a table of an experiment; raises BadExperiment if it is missing or empty."""
    if not isinstance(value, Mapping) or not value:
        example = {"task": "[task.python]", "space": "[space.prune.channels]"}
        heading = example.get(key, "[objectives.accuracy]")
        raise BadExperiment(f"the experiment has no {key}: add a table such as {heading}")
    return value


def task_from(table: Any, folder: Path) -> Task:
    """Return the task of `{"python": {"file": "task.py"}}`."""
    entries = required_table("task", table)
    if len(entries) != 1:
        raise BadExperiment(f"an experiment has exactly one task, got {', '.join(entries)}")
    ((name, settings),) = entries.items()
    kind = catalogue.find("task", name, Task, folder)
    fields = fields_of(kind, f"task.{name}", settings)
    task: Task = instantiate(kind, f"task.{name}", fields, folder)
    return task


def target_from(table: Any) -> Target:
    """Return the target of `{"device": "cpu", "threads": 1}`."""
    target: Target = instantiate(Target, "target", fields_of(Target, "target", table))
    for name in ("threads", "batch_size"):
        value = getattr(target, name)
        if value < 1:
            raise BadExperiment(f"target.{name} must be a positive integer, got {value!r}")
    if target.device not in (devices := device_names()):
        known = " or ".join(f'"{device}"' for device in devices)
        raise BadExperiment(f"target.device must be {known}, got {target.device!r}")
    return target


def space_from(table: Any, folder: Path) -> tuple[Space, list[str]]:
    """Return the space of a table, and a notice for each neutral value that was added.

    Techniques stand in tables of their families, `{"prune": {"channels": {...}}}`, or under their
    full names, `{"prune.channels": {...}}`.
    """
    slots, notices = [], []
    for name, fields in _techniques(required_table("space", table)):
        slot, added = slot_from(name, fields, folder)
        slots.append(slot)
        notices += added
    if not any(slot.ranges for slot in slots):
        raise BadExperiment("no dimension is searched: give at least one field several values")
    return Space(slots=tuple(slots)), notices


def _techniques(entries: Mapping[str, Any]) -> list[tuple[str, Any]]:
    techniques: list[tuple[str, Any]] = []
    for name, fields in entries.items():
        if "." in name or ":" in name:
            techniques.append((name, fields))
        elif isinstance(fields, Mapping):
            techniques += [(f"{name}.{short}", settings) for short, settings in fields.items()]
        else:
            raise BadExperiment(f"space.{name} must be a table such as [space.prune.channels]")
    return techniques


def slot_from(name: str, table: Any, folder: Path) -> tuple[Slot, list[str]]:
    """Return a technique with its ranges, and a notice for each neutral value that was added."""
    kind = catalogue.find("technique", name, Technique, folder)
    fields = fields_of(kind, f"space.{name}", table)
    declarations = {f.name: f for f in dataclasses.fields(kind)}
    searchable = {n: f for n, f in declarations.items() if "dimension" in f.metadata}
    ranges: dict[str, Dimension] = {}
    fixed = {}
    for field, value in fields.items():
        if isinstance(value, list | tuple | Mapping):
            if field not in searchable:
                raise BadExperiment(f"space.{name}.{field} cannot be searched, give it one value")
            ranges[field] = _dimension(f"space.{name}.{field}", value)
        elif field in searchable and not searchable[field].metadata["on_request"]:
            ranges[field] = _dimension(f"space.{name}.{field}", [value])
        else:
            fixed[field] = value
    default_fields = {n: f for n, f in searchable.items() if not f.metadata["on_request"]}
    if not fields.keys() & default_fields.keys():
        ranges |= {n: _listed(f.metadata["dimension"]) for n, f in default_fields.items()}
    base = instantiate(kind, f"space.{name}", fixed, folder)
    notices = []
    for field, dimension in ranges.items():
        where = f"space.{name}.{field}"
        _check_values(base, where, field, dimension, folder)
        ranges[field] = widened(dimension, getattr(base, field))
        if ranges[field] != dimension:
            notices.append(
                f"{where}: {getattr(base, field)!r} was added, the value at which nothing "
                "changes; the baseline needs it"
            )
    return Slot(name=name, base=base, ranges=ranges), notices


def _listed(dimension: Dimension) -> Dimension:
    """Return a dimension in which a catalogue is replaced by its usual entries."""
    if not isinstance(dimension, Entries):
        return dimension
    names = catalogue.names(dimension.kind)
    return Choice(tuple(name for name in names if _usual(dimension.kind, name)))


def _usual(kind: str, name: str) -> bool:
    """True if an entry is searched when an experiment lists none."""
    try:
        entry = catalogue.entry(kind, name)
    except BadEnvironment:  # its package is an extra, which is not installed
        return False
    return not issubclass(entry, Runtime) or entry.usual


def _dimension(where: str, value: Any) -> Dimension:
    """Return the dimension of [8, 32] or { low = 0.0, high = 0.7, step = 0.1 }."""
    try:
        if isinstance(value, Mapping):
            for key in value:
                if key not in RANGE:
                    raise UnknownName(f"key of the range {where}", key, RANGE)
            return _interval(where, value)
        if not all(isinstance(v, int | float | str) for v in value):
            raise ValueError(f"its values must be numbers or strings, got {value}")
        return Choice(tuple(value))
    except (TypeError, ValueError) as error:
        raise BadExperiment(f"{where}: {error}") from error


def _interval(where: str, table: Mapping[str, Any]) -> Interval:
    if not {"low", "high"} <= table.keys():
        raise BadExperiment(
            f"{where}: a range has low and high, as {{ low = 0.0, high = 0.7, step = 0.1 }}, "
            f"got {dict(table)}"
        )
    for key, value in table.items():
        require(bool if key == "log" else float, f"{where}.{key}", value)
    return Interval(**table)


def _check_values(
    base: Technique, where: str, field: str, dimension: Dimension, folder: Path
) -> None:
    """Build the technique at every value, so that a wrong value fails before the search."""
    grid = dimension.values()
    kind = declared_type(type(base), field)
    if grid is None:
        assert isinstance(dimension, Interval)
        if kind is int:
            raise BadExperiment(
                f"{where} takes whole numbers: give the range a step, or list the values"
            )
        grid = (dimension.low, dimension.high)
    allowed = {f.name: f.metadata.get("dimension") for f in dataclasses.fields(base)}[field]
    for value in grid:
        if isinstance(value, str) != (kind is str):
            words = "texts in quotes" if kind is str else "numbers"
            raise BadExperiment(f"{where}: its values are {words}, got {value!r}")
        require(kind, f"each value of {where}", value)
        if isinstance(allowed, Entries):
            catalogue.entry(allowed.kind, str(value), folder)
        settings = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
        instantiate(type(base), where, settings | {field: value}, folder)
