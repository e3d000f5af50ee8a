"""A tracker that writes beside the search, so that no worker waits for a store."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from search.reporting import Summary
from search.tracking.tracker import Tracker


class Background:
    """Writes the latest summary in a thread of its own, until the search has ended."""

    def __init__(self, make: Callable[[], Tracker]) -> None:
        """`make` is called in that thread, before the first write: it may take seconds."""
        self._make = make
        self._tracker: Tracker | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker")
        self._latest: Summary | None = None
        self._writes: Future[None] | None = None

    @property
    def address(self) -> str:
        """Return the store as it may be shown."""
        return self._made().address

    def location(self) -> tuple[str, str] | None:
        """Return the ids of the experiment and of the study's run, None before the first sync."""
        return self._made().location()

    def sync(self, summary: Summary) -> bool:
        """Have a summary written in place of one that still waits; return at once.

        Raises what an earlier write should not have raised.
        """
        if self._writes is not None and self._writes.done():
            self._writes.result()
        self._latest = summary
        self._writes = self._thread.submit(self._write)
        return False

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        """Write all that is lacking and close the study's run, once the thread is at rest."""
        self._latest = None
        if self._writes is not None:
            self._writes.result()
        return self._made().finish(summary, folder, status)

    def _made(self) -> Tracker:
        self._tracker = self._tracker or self._make()
        return self._tracker

    def _write(self) -> None:
        summary, self._latest = self._latest, None
        if summary is not None:
            self._made().sync(summary)
