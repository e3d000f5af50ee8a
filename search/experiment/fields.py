"""Build objects from a user's settings, with checked names and types of the fields."""

import dataclasses
import math
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from search.errors import BadExperiment, UnknownName
from spaces import decode

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    Path: "a path in quotes",
}
"""The types of an experiment's fields, in words for users."""


def fields_of(
    kind: type, where: str, table: Any, *, extra: Collection[str] = (), hidden: Collection[str] = ()
) -> dict[str, Any]:
    """Return the fields in `table`; raises SearchError if one is not a field of `kind`.

    `extra` are further keys that are allowed, `hidden` fields that are not.
    """
    if not isinstance(table, Mapping):
        raise BadExperiment(f"{where} must be a table, got {table!r}: write [{where}]")
    names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    known = [name for name in names if name not in hidden] + list(extra)
    for key in table:
        if key not in known:
            raise UnknownName(f"field of {where}", key, known)
    return dict(table)


def instantiate(
    kind: type, where: str, fields: Mapping[str, Any], folder: Path | None = None
) -> Any:
    """Return an instance of `kind`; raises BadExperiment for a value of wrong type or out of range.

    Relative paths start at `folder`.
    """
    try:
        values = {
            n: _value(declared_type(kind, n), f"{where}.{n}", v, folder) for n, v in fields.items()
        }
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise BadExperiment(f"{where}: {error}") from error


def declared_type(kind: type, field: str) -> Any:
    """Return the type with which a field is annotated."""
    return typing.get_type_hints(kind)[field]


def require(expected: Any, where: str, value: Any) -> None:
    """Raise BadExperiment unless `value` is of the type `expected`; integers count as floats."""
    if value is None and expected == Path | None:
        return
    expected = Path if expected == Path | None else expected
    if expected not in WORDS or _is(expected, value):
        return
    infinite = " that is finite" if isinstance(value, float) and expected is float else ""
    raise BadExperiment(f"{where} must be {WORDS[expected]}{infinite}, got {value!r}")


def _value(expected: Any, where: str, value: Any, folder: Path | None) -> Any:
    value = decode(value, folder)
    require(expected, where, value)
    if value is not None and expected in (Path, Path | None):
        return ((folder or Path()) / Path(value).expanduser()).resolve()
    return value


def _is(expected: type, value: Any) -> bool:
    if isinstance(value, bool) or expected is bool:
        return isinstance(value, bool) and expected is bool
    if expected is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if expected is Path:
        return isinstance(value, str | Path)
    return isinstance(value, expected)
