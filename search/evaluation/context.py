"""Context of a trial: experiment, folders, measurement server, and callbacks."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from search.experiment import Experiment
from search.measuring import MeasurementServer, Reference
from search.records import Rung

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, of, detail) during a trial; `of` is 0 if the stage has no steps."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialContext:
    """Folders, measurement server and callbacks of one trial."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    trial: int
    server: MeasurementServer
    progress: Progress
    judge: Callable[[Rung], str | None] = lambda rung: None
    """Returns the reason to stop the trial at a rung, or None to let it go on."""
    reference: Reference | None = None
    """Takes turns with the trial's artifact when it is timed; None for the first baseline."""

    @property
    def cache(self) -> Path:
        """Folder of cached stage results."""
        return self.folder / "cache"

    @property
    def artifact(self) -> Path:
        """Folder of the trial's artifact."""
        return self.folder / "artifacts" / str(self.trial)

    def scratch(self, name: str) -> Path:
        """Return the path of a temporary folder beside the artifact; the trial has to remove it."""
        return self.artifact.with_name(f"{self.trial}-{name}")


class Pruned(Exception):
    """A trial was stopped because it cannot reach the front; the message is the reason."""
