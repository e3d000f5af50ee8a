"""Classes built from fields that a user wrote: every value of the type declared."""

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
"""The types that fields of an experiment have, as a user knows them."""


def fields_of(
    kind: type, where: str, given: Any, *, extra: Collection[str] = (), hidden: Collection[str] = ()
) -> dict[str, Any]:
    """Return the fields given for `kind`; raises SearchError in one line for any other.

    `extra` are further keys that may be given, `hidden` fields that may not.
    """
    if not isinstance(given, Mapping):
        raise BadExperiment(f"{where} must be a table, got {given!r}: write [{where}]")
    names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    known = [name for name in names if name not in hidden] + list(extra)
    for key in given:
        if key not in known:
            raise UnknownName(f"field of {where}", key, known)
    return dict(given)


def built(kind: type, where: str, fields: Mapping[str, Any], folder: Path | None = None) -> Any:
    """Return an instance; raises BadExperiment for a value of the wrong type or out of range.

    Paths start at `folder`.
    """
    try:
        values = {
            n: _value(declared(kind, n), f"{where}.{n}", v, folder) for n, v in fields.items()
        }
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise BadExperiment(f"{where}: {error}") from error


def declared(kind: type, field: str) -> Any:
    """Return the type with which a field is annotated."""
    return typing.get_type_hints(kind)[field]


def require(wanted: Any, where: str, value: Any) -> None:
    """Raise BadExperiment unless `value` is of the type `wanted`; whole numbers are numbers too."""
    if wanted not in WORDS or _is(wanted, value):
        return
    infinite = " that is finite" if isinstance(value, float) and wanted is float else ""
    raise BadExperiment(f"{where} must be {WORDS[wanted]}{infinite}, got {value!r}")


def _value(wanted: Any, where: str, value: Any, folder: Path | None) -> Any:
    value = decode(value, folder)
    require(wanted, where, value)
    if wanted is Path:
        return ((folder or Path()) / Path(value).expanduser()).resolve()
    return value


def _is(wanted: type, value: Any) -> bool:
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    if wanted is float:
        return isinstance(value, int | float) and math.isfinite(value)
    if wanted is Path:
        return isinstance(value, str | Path)
    return isinstance(value, wanted)
