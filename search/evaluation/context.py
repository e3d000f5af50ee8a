"""Where a trial works, and what stops it on the way."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from search.experiment import Experiment
from search.measuring import Lane
from search.records import Rung

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, of, detail) while a trial runs; `of` is 0 where nothing is counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialContext:
    """Where a trial works, and what it may compare itself with."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    trial: int
    lane: Lane
    progress: Progress
    judge: Callable[[Rung], str | None] = lambda rung: None
    """Returns why the trial is to stop at a rung, None if it goes on."""

    @property
    def cache(self) -> Path:
        """Folder of the stages' results, by content."""
        return self.folder / "cache"

    @property
    def artifact(self) -> Path:
        """Folder of the trial's artifact."""
        return self.folder / "artifacts" / str(self.trial)

    def scratch(self, name: str) -> Path:
        """Return a folder beside the artifact that the trial may make and has to remove."""
        return self.artifact.with_name(f"{self.trial}-{name}")


class Pruned(Exception):
    """A trial that was stopped because it cannot reach the front; the message says why."""
