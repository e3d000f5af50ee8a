"""Load the class of a catalogue entry from the file or package of its name."""

import importlib
import inspect
from typing import TypeVar

T = TypeVar("T")


def entry_of(package: str, name: str, base: type[T]) -> type[T]:
    """Return the one concrete subclass of `base` that the entry `name` of `package` defines.

    Raises ModuleNotFoundError if there is no such entry or it imports a missing library, and
    ValueError unless it defines exactly one such class.
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
