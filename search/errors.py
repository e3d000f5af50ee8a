"""Errors of users and of their environment, each printed as one line.

SearchError                 exit code 2
├── UnknownName             a technique, objective, runtime, task or field that does not exist
├── BadExperiment           the experiment file or a flag cannot be used
├── BadTask                 the user's task.py breaks its contract
├── BadRun                  a run directory cannot be read, or is in use
├── BadArtifact             an artifact's files are missing or altered
├── BadEnvironment          a package, a device or disk space is missing
├── NothingSucceeded        the search ended and no trial succeeded (3)
└── Interrupted             stopped by SIGINT (130) or SIGTERM (143), resumable

A search whose front could not be confirmed prints it and exits with RESUMABLE.
"""

import difflib
from collections.abc import Iterable

RESUMABLE = 75
"""Exit code of a search that ended before its front was confirmed; `resume` continues it."""


class SearchError(Exception):
    """Base class of errors printed as one line: the fault, the value given, and a remedy."""

    exit_code = 2


class UnknownName(SearchError):
    """A name that does not exist; the message suggests the nearest existing one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(known) or "none"
        super().__init__(f"there is no {kind} {name!r}.{hint} Known: {listed}.")


class BadExperiment(SearchError):
    """The experiment file or a flag cannot be used."""


class BadTask(SearchError):
    """The user's task breaks its contract."""


class BadRun(SearchError):
    """A run directory cannot be read, or is in use."""


class BadArtifact(SearchError):
    """An artifact's files are missing or were altered."""


class BadEnvironment(SearchError):
    """A package, a device or disk space is missing."""


class NothingSucceeded(SearchError):
    """The search ended and no trial succeeded."""

    exit_code = 3


class Interrupted(SearchError):
    """Stopped by a signal; the same command continues."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
