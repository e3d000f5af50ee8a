"""Early stopping at the probe, and the rungs of a training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from objectives import Measurement
from search.experiment import Goal
from search.records.comparison import order
from search.records.front import feasible
from search.records.record import Record

PROBE = "probe"
"""Name of the rung before training, where objectives that do not depend on it are measured."""
SHARES = (0.25, 0.5)
"""Shares of a training's steps at which it is compared with other trainings."""
WORTHWHILE = 100
"""Fewest steps of a training that has rungs: shorter ones end before a comparison pays off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """A point at which a trial may be stopped, with its measurements so far."""

    name: str
    measurements: dict[str, Measurement]
    """By objective; at rungs of training the objectives that depend on it are estimates."""

    def to_json(self) -> dict[str, Any]:
        """Return the rung as plain data."""
        measurements = {name: m.to_json() for name, m in self.measurements.items()}
        return {"name": self.name, "measurements": measurements}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the rung that `to_json` described."""
        measurements = {
            name: Measurement.from_json(fields) for name, fields in data["measurements"].items()
        }
        return cls(name=data["name"], measurements=measurements)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Incumbent:
    """A finished trial that a new one has to beat, with its measurements."""

    trial: int
    measurements: dict[str, Measurement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """Measurements with which a new trial is compared."""

    baseline: dict[str, Measurement]
    incumbents: tuple[Incumbent, ...]
    """Finished trials that satisfy every limit."""


def bar_of(records: Sequence[Record], baseline: Record | None) -> Bar | None:
    """Return the measurements to compare a new trial with; None before there is a baseline."""
    if baseline is None:
        return None
    finished = [
        Incumbent(trial=r.trial, measurements=dict(r.measurements)) for r in feasible(records)
    ]
    return Bar(baseline=dict(baseline.measurements), incumbents=tuple(finished))


def hopeless(
    goals: Sequence[Goal], measurements: Mapping[str, Measurement], bar: Bar
) -> str | None:
    """Return the reason why a candidate is not worth training, or None if it is.

    `measurements` are those that do not depend on training. A candidate is hopeless if it breaks
    a limit that training cannot repair. It also is if one incumbent is better in every
    measurement, with each value outside of the other's interval, and the best of all in every
    objective not measured yet: the candidate is then dominated unless its training beats the
    best score so far. This is stricter than dominance, which lets all objectives but one be equal.
    """
    for goal in goals:
        if goal.name in measurements and (reason := _broken(goal, measurements[goal.name], bar)):
            return reason
    known = [g for g in goals if g.name in measurements]
    unknown = [g for g in goals if g.name not in measurements]
    for rival in bar.incumbents:
        worse = all(_worse(g, measurements[g.name], rival.measurements[g.name]) for g in known)
        if known and worse and all(_best(g, rival, bar.incumbents) for g in unknown):
            better = " and ".join(g.name for g in known)
            best = " and ".join(g.name for g in unknown)
            return f"trial {rival.trial} has better {better}, and the best {best} so far"
    return None


def _broken(goal: Goal, measurement: Measurement, bar: Bar) -> str | None:
    """Return a sentence about the first limit that a measurement breaks beyond noise, or None."""
    best = measurement.high if goal.rising else measurement.low
    for name, violation in goal.violations(best, bar.baseline[goal.name].value).items():
        if violation > 0:
            figures = f"{measurement.value:.4g} {measurement.unit}"
            return f"its {goal.name} of {figures} breaks the limit {name} by {violation:.3g}"
    return None


def _worse(goal: Goal, candidate: Measurement, incumbent: Measurement) -> bool:
    """True if the candidate is worse beyond noise."""
    return order(candidate, incumbent) == (-1 if goal.rising else 1)


def _best(goal: Goal, rival: Incumbent, incumbents: Sequence[Incumbent]) -> bool:
    """True if no incumbent is better than `rival` in the goal's objective."""
    values = [i.measurements[goal.name].value for i in incumbents]
    value = rival.measurements[goal.name].value
    return value >= max(values) if goal.rising else value <= min(values)


def rungs(steps: int) -> dict[int, str]:
    """Return the names of a training's rungs by the step at which each is reached."""
    if steps < WORTHWHILE:
        return {}
    return {round(share * steps): f"{share:.0%} of training" for share in SHARES}
