"""Points that a study knows: their records, those being evaluated, and what rules points out."""

import json
import math
from collections.abc import Callable

from search.experiment import Experiment
from search.records import Axis, Record
from search.study.known_impossible import implied
from search.study.opening import baselines, reference_of
from search.study.worthwhile import no_use_of_training, untrained
from spaces import Point

Refuse = Callable[[Point], str | None]
"""Returns the reason why a point cannot be executed, or None if it can."""


class KnownPoints:
    """Records of an experiment by their points, and which points are worth a trial."""

    def __init__(self, experiment: Experiment, refuse: Refuse, *, selective: bool) -> None:
        """Know nothing yet; without `selective`, trainings that cannot help are worthwhile too."""
        self._experiment, self._refuse, self._selective = experiment, refuse, selective
        self._space = experiment.space
        self.pending: dict[int, str] = {}
        """Keys of the points that are being evaluated, by trial."""
        self._records: dict[int, Record] = {}
        self._by_point: dict[str, Record] = {}
        self._impossible: dict[int, Record] = {}
        """Records of points that could not be built, which may rule out other points."""

    @property
    def records(self) -> list[Record]:
        """All records in the order of their trials."""
        return [self._records[n] for n in sorted(self._records)]

    @property
    def baseline(self) -> Record | None:
        """The neutral point's record in the neutral runtime, or in the first runtime that works."""
        return next(iter(self.baselines()), None)

    @property
    def reference(self) -> Record | None:
        """The fastest of the baselines, with which all that is timed takes turns."""
        return reference_of(self._experiment, self.baselines())

    def baselines(self) -> list[Record]:
        """Return the complete records of the neutral point, one for each runtime that works."""
        answers = (self.answer(point) for point in baselines(self._experiment))
        return [r for r in answers if r and r.state == "complete"]

    def baseline_failure(self) -> str | None:
        """Return the reason why no runtime can measure the unchanged model, None if one may.

        A baseline that has not been tried, and is not refused, may still be measured.
        """
        reasons = []
        for point in baselines(self._experiment):
            record = self.answer(point)
            reason = record.reason if record else self.refused(point)
            if reason is None or (record and record.state == "complete"):
                return None
            reasons.append((record is None, reason))
        return min(reasons, key=lambda pair: pair[0])[1]  # prefer a trial's reason to a refusal

    def times(self) -> dict[str, float]:
        """Return the shortest time of the unchanged shape by runtime, in any encoding.

        It is the value of the first timed objective, or the inverse of a rate; empty without one.
        """
        timed = (g for g in self._experiment.objectives if g.timed)
        axis = next((Axis.of(goal.name, goal.objective) for goal in timed), None)
        times = dict[str, float]()
        unchanged = self._space.shape(self._space.neutral())
        for record in self._records.values() if axis else ():
            if axis and record.state == "complete" and self._space.shape(record.point) == unchanged:
                time = axis.value(record) ** axis.sign
                times[record.runtime] = min(time, times.get(record.runtime, math.inf))
        return times

    def keep(self, record: Record) -> None:
        """Keep a record, in the place of an earlier one of its trial or point."""
        self._records[record.trial] = record
        self._by_point[key(record.point)] = record
        if record.facts.impossible:
            self._impossible[record.trial] = record

    def reopen(self, point: Point) -> None:
        """Let a point be tried again, although it has a record."""
        self._by_point.pop(key(point), None)

    def answer(self, point: Point) -> Record | None:
        """Return the record of a canonical point."""
        return self._by_point.get(key(point))

    def evaluating(self, point: Point) -> bool:
        """True if a trial is evaluating the point."""
        return key(point) in self.pending.values()

    def holds(self, point: Point) -> bool:
        """True if a canonical point has a record, or is being evaluated."""
        return self.answer(point) is not None or self.evaluating(point)

    def refused(self, point: Point) -> str | None:
        """Return the reason why the executor or an earlier trial rules a point out, or None."""
        records = self._impossible.values()
        return self._refuse(point) or implied(self._space, records, point)

    def worthwhile(self, point: Point) -> bool:
        """True if a point is new and may be evaluated, or its untrained sibling in its place."""
        point = self._space.canonical(point)
        if self.holds(point) or self.refused(point):
            return False
        return self.cheapest(point) is not None

    def cheapest(self, point: Point) -> Point | None:
        """Return the canonical point to evaluate first if the given one is asked for.

        It is the untrained sibling while that is not known, and None if training cannot help, or
        if the sibling is being evaluated.
        """
        sibling = untrained(self._space, point)
        if sibling is None or not self._selective or self.refused(sibling):
            return point
        if self.evaluating(sibling):
            return None
        record = self.answer(sibling)
        if record is None:
            return sibling
        useless = no_use_of_training(self._experiment, record, self.records, self.baseline)
        return None if useless else point


def key(point: Point) -> str:
    """Return a text that equal points share."""
    return json.dumps(point, sort_keys=True)
