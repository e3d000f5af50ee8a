"""Dataclasses as JSON, so that another process can build them again without a pickle."""

import dataclasses
import importlib
from typing import Any

from spaces.technique import Infeasible

KIND, FIELDS, TUPLE = "kind", "fields", "tuple"


def encode(value: Any) -> Any:
    """Return `value`, nested dataclasses, tuples, lists, strings, numbers or None, for JSON.

    Raises Infeasible when another process could not import a class, TypeError on other types.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return {KIND: _address(type(value)), FIELDS: {k: encode(v) for k, v in parts.items()}}
    if isinstance(value, tuple):
        return {TUPLE: [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"cannot hand a {type(value).__name__} to another process; use strings, numbers, tuples, "
        "lists and dataclasses of them"
    )


def decode(content: Any) -> Any:
    """Return what `encode` took apart."""
    if isinstance(content, list):
        return [decode(v) for v in content]
    if not isinstance(content, dict):
        return content
    if TUPLE in content:
        return tuple(decode(v) for v in content[TUPLE])
    module, name = content[KIND].split(":")
    fields = {k: decode(v) for k, v in content[FIELDS].items()}
    return getattr(importlib.import_module(module), name)(**fields)


def _address(kind: type) -> str:
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        raise Infeasible(
            f"several devices cannot train with {kind.__module__}.{kind.__qualname__}: other "
            "processes cannot import it; define it at the top of a module with a name"
        )
    return f"{kind.__module__}:{kind.__qualname__}"
