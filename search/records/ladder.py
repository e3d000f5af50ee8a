"""Ladder: which trainings end at a rung, by what others showed there and gained from there on."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from objectives import Measurement
from search.experiment import Goal
from search.records.comparison import order
from search.records.front import feasible
from search.records.record import Record
from search.records.stopping import Rung

FEWEST = 4
"""Fewest trials at a rung before one of them is stopped there."""
CURVES = 3
"""Fewest finished trainings that tell how much a score gains from a rung to the end."""
LEVEL = 0.95
"""Probability with which a training ends below its optimistic bound."""


class Ladder:
    """The measurements of trials at each rung of their training, for one search."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self._goals = goals
        self._rungs: dict[str, dict[int, Mapping[str, Measurement]]] = {}

    def judge(self, trial: int, rung: Rung, records: Iterable[Record] = ()) -> str | None:
        """Return the reason to stop a trial at a rung, or None to let it go on.

        A trial is stopped if all others at the rung dominate it beyond noise, or if a finished
        trial would even if the training gained as much as a bound from `records` allows. While too
        few trainings have finished for a bound, it stops if at least half of the others dominate
        it (asynchronous successive halving, Li et al. 2020, with non-domination as the rank:
        Schmucker et al. 2021, MO-ASHA). What nothing dominates never stops, and the order in which
        others came to the rung does not matter. Rungs are shares of the training rather than
        steps, since the learning rate follows a schedule over each training's own length.
        """
        if not all(goal.name in rung.measurements for goal in self._goals):
            return None
        at_rung = self._rungs.setdefault(rung.name, {})
        at_rung[trial] = rung.measurements
        others = [seen for number, seen in at_rung.items() if number != trial]
        ahead = sum(self._dominates(seen, rung.measurements) for seen in others)
        if not ahead or len(at_rung) < FEWEST:
            return None
        found = f"after {rung.name}, {ahead} of {len(others)} other trials are ahead of it"
        if ahead == len(others):
            return found
        finished = feasible(list(records))
        best = self._optimistic(rung, at_rung, finished)
        if best is None:
            return found if 2 * ahead >= len(others) else None
        rivals = (r.trial for r in finished if self._dominates(r.measurements, best))
        rival = next(rivals, None)
        if rival is None:
            return None
        return f"after {rung.name}, it would not reach trial {rival} by gaining as much as others"

    def _optimistic(
        self,
        rung: Rung,
        at_rung: Mapping[int, Mapping[str, Measurement]],
        finished: Sequence[Record],
    ) -> dict[str, Measurement] | None:
        """Return the measurements after the largest gain that can be expected.

        The bound of a gain is that of a prediction interval of the gains of finished trainings.
        None if too few of them were at the rung.
        """
        pairs = [(at_rung[r.trial], r.measurements) for r in finished if r.trial in at_rung]
        if len(pairs) < CURVES:
            return None
        best = dict(rung.measurements)
        for goal in self._goals:
            if goal.objective.trained:
                gains = [end[goal.name].value - at[goal.name].value for at, end in pairs]
                most = _bound(gains) if goal.rising else -_bound([-g for g in gains])
                best[goal.name] = _shifted(best[goal.name], most)
        return best

    def _dominates(self, own: Mapping[str, Measurement], other: Mapping[str, Measurement]) -> bool:
        """True if `own` is better beyond noise in an objective, and worse in none."""
        outcomes = [
            order(own[g.name], other[g.name]) * (1 if g.rising else -1) for g in self._goals
        ]
        return max(outcomes) > 0 and min(outcomes) >= 0


def _bound(gains: Sequence[float]) -> float:
    """Return the value below which the next gain lies with probability LEVEL."""
    from scipy.special import stdtrit  # late: takes a tenth of a second to import

    count = len(gains)
    quantile = float(stdtrit(count - 1, LEVEL))
    spread = statistics.stdev(gains) * math.sqrt(1 + 1 / count)
    return statistics.fmean(gains) + quantile * spread


def _shifted(measurement: Measurement, gain: float) -> Measurement:
    """Return a measurement moved by `gain`, no longer paired with others by its samples."""
    return dataclasses.replace(
        measurement,
        value=measurement.value + gain,
        low=measurement.low + gain,
        high=measurement.high + gain,
        resamples=(),
    )
