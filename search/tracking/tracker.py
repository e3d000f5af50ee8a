"""Interface of trackers, which mirror a study for reviewers."""

from pathlib import Path
from typing import Protocol

from search.reporting import Summary


class Tracker(Protocol):
    """Writes a study to a store; never stops a search."""

    @property
    def address(self) -> str:
        """Address of the store, without credentials."""

    def location(self) -> tuple[str, str] | None:
        """Return the ids of the experiment and of the study's run; None before the first sync."""

    def sync(self, summary: Summary) -> bool:
        """Write whatever the store lacks; return True if it is complete."""

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        """Write the confirmed front, its artifacts and the report, and close the study's run.

        Returns True if all was written.
        """
