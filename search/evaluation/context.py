"""Where a trial works, and what stops it on the way."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from search.experiment import Experiment
from search.measuring import Lane
from search.study import Rung

Progress = Callable[[str, int, int, str], None]
"""Told (stage, done, of, detail) while a trial runs; `of` is 0 where there is nothing to count."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """Where a trial works and what it may compare itself with."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    trial: int
    lane: Lane
    progress: Progress
    judge: Callable[[Rung], str | None] = lambda rung: None
    """Says at a rung why the trial is to stop, None if it goes on."""

    @property
    def cache(self) -> Path:
        """Folder of the stages' results, by content."""
        return self.folder / "cache"


class Pruned(Exception):
    """A trial that was stopped because it cannot reach the front; the message says why."""
