"""JSON form of dataclasses, from which another process rebuilds them without pickle."""

import dataclasses
from pathlib import Path
from typing import Any

from spaces.user_code import address_of, resolve

KIND, FIELDS, TUPLE, PATH = "kind", "fields", "tuple", "path"


def encode(value: Any, folder: Path | None = None) -> Any:
    """Return a value as plain data for JSON.

    A value is a dataclass, tuple, list, string, path, number or None; the first three may be
    nested. Paths inside `folder` become relative to it. Raises Unreachable if another process
    could not import a class, and TypeError for other types.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        fields = {name: encode(part, folder) for name, part in parts.items()}
        return {KIND: address_of(type(value), folder), FIELDS: fields}
    if isinstance(value, Path):
        inside = folder is not None and value.is_relative_to(folder)
        return {PATH: str(value.relative_to(folder) if inside and folder else value)}
    if isinstance(value, tuple):
        return {TUPLE: [encode(v, folder) for v in value]}
    if isinstance(value, list):
        return [encode(v, folder) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"cannot hand a {type(value).__name__} to another process; use strings, numbers, paths, "
        "tuples, lists and dataclasses of them"
    )


def decode(content: Any, folder: Path | None = None) -> Any:
    """Return the value that `encode` encoded; relative paths start at `folder`.

    Raises ValueError for a table that `encode` does not produce.
    """
    if isinstance(content, list):
        return [decode(v, folder) for v in content]
    if not isinstance(content, dict):
        return content
    if TUPLE in content:
        return tuple(decode(v, folder) for v in content[TUPLE])
    if PATH in content:
        return (folder or Path()) / content[PATH]
    if content.keys() != {KIND, FIELDS}:
        raise ValueError(
            f"a table stands for a dataclass, with its class and fields, got {content}"
        )
    fields = {name: decode(part, folder) for name, part in content[FIELDS].items()}
    return resolve(content[KIND], folder)(**fields)
