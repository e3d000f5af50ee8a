"""The queue that executors work off: points to evaluate, where records go, and who stops."""

import time
from collections.abc import Callable

from search.records import PROBE, Ladder, Record, Rung, bar_of, hopeless
from search.study.study import Asked, Study

Told = Callable[[Record], None]
"""Called with each record once it is stored."""
Progress = Callable[[Asked, str, int, int, str], None]
"""Called with a trial under way: (trial, stage, done, of, detail)."""


class Queue:
    """The open end of a study; used from one thread of the driver only."""

    def __init__(
        self,
        study: Study,
        *,
        seconds: float | None,
        told: Told,
        started: Callable[[Asked], None],
        progress: Progress,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called before each point is asked; what it raises ends the search."""
        self._study, self._told, self._started, self.progress = study, told, started, progress
        self._check = check
        self._deadline = time.monotonic() + (seconds if seconds is not None else float("inf"))
        self._ladder = Ladder(study.experiment.objectives)
        self._exhausted = False
        self._nothing_new = False
        """Whether the study had no point left, until another record may show it one."""
        self.open: dict[int, Asked] = {}
        """Trials under way by number."""

    @property
    def finished(self) -> bool:
        """Whether no further point will ever be asked."""
        spent = self._study.paid >= self._study.experiment.trials
        return spent or self._exhausted or time.monotonic() >= self._deadline

    @property
    def exhausted(self) -> bool:
        """Whether no new point could be found, although the budget is not spent."""
        return self._exhausted

    def ask(self) -> Asked | None:
        """Return the next point; None when there is none, or none before a trial has ended."""
        self._check()
        if self.finished or self._study.paid + len(self.open) >= self._study.experiment.trials:
            return None
        if self._nothing_new and self.open:
            return None
        asked = self._study.ask()
        if asked is None:
            self._nothing_new, self._exhausted = True, not self.open
            return None
        self.open[asked.trial] = asked
        self._started(asked)
        return asked

    def judge(self, asked: Asked, rung: Rung) -> str | None:
        """Return why a trial is to stop at a rung, None if it goes on; baselines always do."""
        if asked.forced:
            return None
        if rung.name != PROBE:
            return self._ladder.judge(asked.trial, rung)
        bar = bar_of(self._study.records, self._study.baseline)
        return hopeless(self._study.experiment.objectives, rung.measurements, bar) if bar else None

    def tell(self, asked: Asked, record: Record) -> None:
        """Store the record of a trial."""
        stored = self._study.tell(asked, record)
        self.open.pop(asked.trial, None)
        self._nothing_new = False
        self._told(stored)

    def close(self) -> None:
        """Give back what was asked and not answered: it will be asked again."""
        for asked in self.open.values():
            self._study.abandon(asked)
        self.open.clear()
