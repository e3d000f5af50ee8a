"""Reasons for the failure of a trial's worker, parsed from Ray's errors."""

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
"""Phrases in Ray's errors, with the reasons that they stand for."""
RAISED = "ray::"
"""Text that Ray writes before the traceback of an exception raised by a worker."""
KILLED = f"{Killed.__module__}.{Killed.__qualname__}: "


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retry:
    """A trial whose worker was lost, to be run once more."""

    pending: PendingTrial
    lost_at: float
    machine: str | None
    """Ray's id of the machine where it ran; None if it did not start."""


def error_of(trial: Any) -> str:
    """Return the text of a Ray Tune trial's error, "" if it has none."""
    return Path(trial.error_file).read_text() if trial.error_file else ""


def reason_of(error: str) -> str:
    """Return the reason of a worker's failure, from the text of its error."""
    line = last_line(error)
    if line.startswith(KILLED):
        return line.removeprefix(KILLED)
    for sign, reason in SIGNS.items():
        if sign in error:
            return reason
    return f"its worker failed: {line}" if RAISED in error else CRASHED


def killed_trials(error: BaseException, workers: Mapping[str, str]) -> set[str]:
    """Return the trials whose workers are named as killed in an error of Ray's memory monitor."""
    _, _, selected = str(error).partition("Selected to kill")
    return {trial for trial, worker in workers.items() if worker in selected}


def combined_reason(first: str, second: str) -> str:
    """Return the reason of a trial that was lost, run again and lost again."""
    return f"{second}, twice" if first == second else f"{second}; on the first try {first}"
