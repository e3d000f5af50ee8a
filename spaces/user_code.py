"""Import the user's files, and address their classes so that other processes can import them.

An address is `FILE.py:NAME` for a file, which need not be on the module path, or `MODULE:NAME` for
a module that can be imported.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "paretune_user_"
"""Prefix of the names of modules that were loaded from files."""


class Unreachable(ValueError):
    """Raised for a class that another process could not import."""


def load_file(path: Path) -> ModuleType:
    """Import a Python file once per process, with its folder first on the module path.

    Raises FileNotFoundError if there is no such file, and any exception that its code raises.
    """
    path = path.resolve()
    name = PREFIX + "".join(c if c.isalnum() else "_" for c in str(path))
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def resolve(address: str, folder: Path | None = None) -> Any:
    """Return the object at an address; a relative path starts at `folder`.

    Raises FileNotFoundError, ModuleNotFoundError or AttributeError if there is none.
    """
    place, _, name = address.rpartition(":")
    if place.endswith(".py"):
        return getattr(load_file((folder or Path()) / place), name)
    return getattr(importlib.import_module(place), name)


def address_of(kind: type, folder: Path | None = None) -> str:
    """Return the address of a class; the path of a file inside `folder` is relative to it.

    A class of the main program is addressed by the program's file, which other processes then
    import. Raises Unreachable for a class defined inside a function or in an interactive session.
    """
    module = kind.__module__
    place = getattr(sys.modules.get(module), "__file__", None)
    script = module == "__main__" and str(place).endswith(".py")
    if "." in kind.__qualname__ or (module == "__main__" and not script):
        raise Unreachable(
            f"{module}.{kind.__qualname__} must be defined at the top of a module with a name: "
            "other processes cannot import it"
        )
    if module.startswith(PREFIX) or script:
        path = Path(str(place)).resolve()
        inside = folder is not None and path.is_relative_to(folder)
        module = str(path.relative_to(folder) if inside and folder else path)
    return f"{module}:{kind.__qualname__}"
