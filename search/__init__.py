"""Search for the best trade-offs of accuracy against speed that a model can reach.

import search

result = search.run("experiment.toml", trials=40)   # or task="task.py", or a search.Experiment
result.pick("knee").export("model/")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.api import audit, check, compare, measure, noise, open, resume, run, verify
    from search.errors import SearchError
    from search.experiment import Experiment
    from search.records import Record
    from search.result import Member, Result

__all__ = [
    "Experiment",
    "Member",
    "Record",
    "Result",
    "SearchError",
    "audit",
    "catalogue",
    "check",
    "compare",
    "measure",
    "noise",
    "open",
    "resume",
    "run",
    "verify",
]

_MODULES = {
    "search.errors": ("SearchError",),
    "search.experiment": ("Experiment",),
    "search.records": ("Record",),
    "search.result": ("Member", "Result"),
    "search.api": (
        "audit",
        "check",
        "compare",
        "measure",
        "noise",
        "open",
        "resume",
        "run",
        "verify",
    ),
}


def __getattr__(name: str) -> Any:
    """Import a name on first use: processes of trials import this package and use none of them."""
    import importlib

    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'search' has no attribute {name!r}")
