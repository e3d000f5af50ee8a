"""Entries of catalogues: the file or the package of a name defines one final class."""

import importlib
import inspect
from typing import TypeVar

T = TypeVar("T")


def entry_of(package: str, name: str, base: type[T]) -> type[T]:
    """Return the one final subclass of `base` that the entry of a name in `package` defines.

    Raises ModuleNotFoundError without such an entry, or without a library that it imports.
    """
    module = importlib.import_module(f"{package}.{name}")
    (final,) = [
        item
        for item in vars(module).values()
        if inspect.isclass(item)
        and issubclass(item, base)
        and not inspect.isabstract(item)
        and f"{item.__module__}.".startswith(f"{module.__name__}.")
    ]
    return final
