"""The queue between a study and its executor: points out, records in, stop decisions."""

import time
from collections.abc import Callable

from search.records import PROBE, Ladder, Record, Rung, bar_of, hopeless
from search.study.study import PendingTrial, Study

OnRecord = Callable[[Record], None]
"""Called with each record once it is stored."""
Progress = Callable[[PendingTrial, str, int, int, str], None]
"""Called with the progress of a running trial: (trial, stage, done, of, detail)."""


class Queue:
    """Points of a study for an executor to evaluate; used from one thread of the driver only."""

    def __init__(
        self,
        study: Study,
        *,
        seconds: float | None,
        on_record: OnRecord,
        on_start: Callable[[PendingTrial], None],
        progress: Progress,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the queue of a study.

        `seconds` is the time after which no point is handed out, `on_start` is called with each
        point that is. `check` is called before; what it raises ends the search.
        """
        self._study, self._on_record, self._on_start, self.progress = (
            study,
            on_record,
            on_start,
            progress,
        )
        self._check = check
        self._deadline = time.monotonic() + (seconds if seconds is not None else float("inf"))
        self._ladder = Ladder(study.experiment.objectives)
        self._exhausted = False
        self._nothing_new = False
        """True if the study has no new point until another record arrives."""
        self.open: dict[int, PendingTrial] = {}
        """Running trials by number."""

    @property
    def finished(self) -> bool:
        """True if no further point will be handed out."""
        spent = self._study.paid >= self._study.experiment.trials
        return spent or self._exhausted or time.monotonic() >= self._deadline

    @property
    def exhausted(self) -> bool:
        """True if there is no new point although the budget is not spent."""
        return self._exhausted

    def ask(self) -> PendingTrial | None:
        """Return the next point, or None if there is none until a running trial ends."""
        self._check()
        if self.finished or self._study.paid + len(self.open) >= self._study.experiment.trials:
            return None
        if self._nothing_new and self.open:
            return None
        pending = self._study.ask()
        if pending is None:
            self._nothing_new, self._exhausted = True, not self.open
            return None
        self.open[pending.trial] = pending
        self._on_start(pending)
        return pending

    def judge(self, pending: PendingTrial, rung: Rung) -> str | None:
        """Return the reason to stop a trial at a rung, or None; baselines are never stopped."""
        if pending.forced:
            return None
        if rung.name != PROBE:
            return self._ladder.judge(pending.trial, rung, self._study.records)
        bar = bar_of(self._study.records, self._study.baseline)
        return hopeless(self._study.experiment.objectives, rung.measurements, bar) if bar else None

    def tell(self, pending: PendingTrial, record: Record) -> None:
        """Store the record of a trial."""
        stored = self._study.tell(pending, record)
        self.open.pop(pending.trial, None)
        self._nothing_new = False
        self._on_record(stored)

    def close(self) -> None:
        """Return the points of running trials to the study, which will propose them again."""
        for pending in self.open.values():
            self._study.abandon(pending)
        self.open.clear()
