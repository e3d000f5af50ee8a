"""Tracker that writes in a background thread, so that no worker waits for a store."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from search.reporting import Summary
from search.tracking.tracker import Tracker


class Background:
    """Writes the latest summary in a thread of its own until the search ends."""

    def __init__(self, make: Callable[[], Tracker]) -> None:
        """Create the tracker by `make` in the thread, before the first write, as it may be slow."""
        self._make = make
        self._tracker: Tracker | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker")
        self._latest: Summary | None = None
        self._writes: Future[None] | None = None

    @property
    def address(self) -> str:
        """Address of the store, without credentials."""
        return self._wrapped().address

    def location(self) -> tuple[str, str] | None:
        """Return the ids of the experiment and of the study's run; None before the first sync."""
        return self._wrapped().location()

    def sync(self, summary: Summary) -> bool:
        """Schedule a summary to be written, instead of one that still waits; return at once.

        Raises an unexpected error of an earlier write.
        """
        if self._writes is not None and self._writes.done():
            self._writes.result()
        self._latest = summary
        self._writes = self._thread.submit(self._write)
        return False

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        """Write whatever the store lacks and close the study's run, after the thread is idle."""
        self._latest = None
        if self._writes is not None:
            self._writes.result()
        return self._wrapped().finish(summary, folder, status)

    def _wrapped(self) -> Tracker:
        self._tracker = self._tracker or self._make()
        return self._tracker

    def _write(self) -> None:
        summary, self._latest = self._latest, None
        if summary is not None:
            self._wrapped().sync(summary)
