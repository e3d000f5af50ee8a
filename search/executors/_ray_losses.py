"""Why a trial's worker gave no answer, in words that say what happened to it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.executors._ray_cluster import last_line  # isort: skip  # before Ray itself

import ray
from ray import cloudpickle

from search.executors._process import Killed
from search.study import Asked

NO_MEMORY = "Ray killed its worker because the memory of its machine ran out"
NO_MACHINE = "its machine was lost"
CRASHED = "its worker crashed"
SIGNS = {"running low on memory": NO_MEMORY, "node has died": NO_MACHINE}
"""What Ray writes where its errors have no field for it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lost:
    """A trial whose worker was lost, and that is to be tried once more."""

    asked: Asked
    when: float
    machine: str | None
    """Ray's id of where it ran, None if it did not come as far."""


def error_of(trial: Any) -> BaseException | str | None:
    """Return what Ray Tune keeps of a trial's error: itself, or for some kinds its text.

    It is read where Tune has just written it: what Tune itself would read is copied later.
    """
    if trial.pickled_error_file:
        error: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return error
    return Path(trial.error_file).read_text() if trial.error_file else None


def reason_of(error: BaseException | str | None) -> str:
    """Return what happened to the worker that failed with an error."""
    if isinstance(error, ray.exceptions.RayTaskError):
        killed = isinstance(error.cause, Killed)
        return str(error.cause) if killed else f"its worker failed: {last_line(error)}"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return NO_MEMORY
    if isinstance(error, ray.exceptions.NodeDiedError):
        return NO_MACHINE
    text = str(error)
    return next((reason for sign, reason in SIGNS.items() if sign in text), CRASHED)


def killed(error: BaseException, workers: Mapping[str, str]) -> set[str]:
    """Return the trials whose workers Ray's memory monitor says it has selected and killed."""
    _, _, selected = str(error).partition("Selected to kill")
    return {trial for trial, worker in workers.items() if worker in selected}


def twice(first: str, second: str) -> str:
    """Return what happened to a trial that was lost, tried again and lost again."""
    return f"{second}, twice" if first == second else f"{second}; on the first try {first}"
