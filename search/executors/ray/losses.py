"""Why a trial's worker gave no answer, in words that say what happened to it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.executors.ray.cluster import last_line  # isort: skip  # before Ray itself

from search.study import PendingTrial
from search.trial_process import Killed

NO_MEMORY = "Ray killed its worker because the memory of its machine ran out"
NO_MACHINE = "its machine was lost"
CRASHED = "its worker crashed"
SIGNS = {"running low on memory": NO_MEMORY, "node has died": NO_MACHINE}
"""What Ray writes of what happened to a worker."""
RAISED = "ray::"
"""What Ray writes before the trace of an error that a worker has raised."""
KILLED = f"{Killed.__module__}.{Killed.__qualname__}: "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lost:
    """A trial whose worker was lost, and that is to be tried once more."""

    asked: PendingTrial
    when: float
    machine: str | None
    """Ray's id of where it ran, None if it did not come as far."""


def error_of(trial: Any) -> str:
    """Return the text of a trial's error, which Ray Tune has just written; "" where it has none."""
    return Path(trial.error_file).read_text() if trial.error_file else ""


def reason_of(error: str) -> str:
    """Return what happened to a worker, from the text of its error."""
    last = last_line(error)
    if last.startswith(KILLED):
        return last.removeprefix(KILLED)
    for sign, reason in SIGNS.items():
        if sign in error:
            return reason
    return f"its worker failed: {last}" if RAISED in error else CRASHED


def killed(error: BaseException, workers: Mapping[str, str]) -> set[str]:
    """Return the trials whose workers Ray's memory monitor says it has selected and killed."""
    _, _, selected = str(error).partition("Selected to kill")
    return {trial for trial, worker in workers.items() if worker in selected}


def twice(first: str, second: str) -> str:
    """Return what happened to a trial that was lost, tried again and lost again."""
    return f"{second}, twice" if first == second else f"{second}; on the first try {first}"
