"""When a trial stops: dominated at its probe, or behind others at a rung of its training."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from objectives import Measurement
from search.experiment import Goal
from search.records.dominance import front_numbers
from search.records.front import feasible
from search.records.record import Record

PROBE = "probe"
"""The rung before training, of what does not depend on it."""
SHARES = (0.25, 0.5)
"""Of the steps of a training, after which it is held against others."""
WORTHWHILE = 100
"""Steps from which on a training has rungs: shorter ones are over before they could be judged."""
FEWEST = 4
"""Trials that a rung must have seen before one is stopped there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """How far a trial has come, and what was found of it by then."""

    name: str
    measurements: dict[str, Measurement]
    """By objective; at a training's rungs the score is an estimate."""

    def to_json(self) -> dict[str, Any]:
        """Return the rung as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the rung that `to_json` described."""
        known = {name: Measurement(**fields) for name, fields in data["measurements"].items()}
        return cls(name=data["name"], measurements=known)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Incumbent:
    """A finished trial that a new one has to beat: its intervals on every objective."""

    trial: int
    measurements: dict[str, Measurement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """What a new trial is held against."""

    baseline: dict[str, Measurement]
    incumbents: tuple[Incumbent, ...]
    """Finished trials that satisfy every limit."""


def bar_of(records: Sequence[Record], baseline: Record | None) -> Bar | None:
    """Return what a new trial is held against; None before there is a baseline."""
    if baseline is None:
        return None
    finished = [
        Incumbent(trial=r.trial, measurements=dict(r.measurements)) for r in feasible(records)
    ]
    return Bar(baseline=dict(baseline.measurements), incumbents=tuple(finished))


def hopeless(goals: Sequence[Goal], found: Mapping[str, Measurement], bar: Bar) -> str | None:
    """Return why a candidate with the measurements `found` is not worth training, else None.

    Either a limit is broken that training cannot mend, or one incumbent is clearly better
    (each outside of the other's interval) on everything found and also has the best score of all:
    the candidate is then dominated as far as its training cannot beat the best score seen so far.
    This is stricter than dominance, which lets all objectives but one be equal.
    """
    for goal in goals:
        if goal.name in found and (reason := _broken(goal, found[goal.name], bar)):
            return reason
    known = [g for g in goals if g.name in found]
    open_ones = [g for g in goals if g.name not in found]
    for rival in bar.incumbents:
        worse = all(_worse(g, found[g.name], rival.measurements[g.name]) for g in known)
        if known and worse and all(_best(g, rival, bar.incumbents) for g in open_ones):
            better = " and ".join(g.name for g in known)
            best = " and ".join(g.name for g in open_ones)
            return f"trial {rival.trial} has better {better}, and the best {best} so far"
    return None


def _broken(goal: Goal, found: Measurement, bar: Bar) -> str | None:
    for name, violation in goal.violations(found.value, bar.baseline[goal.name].value).items():
        if violation > 0:
            figures = f"{found.value:.4g} {found.unit}"
            return f"its {goal.name} of {figures} breaks the limit {name} by {violation:.3g}"
    return None


def _worse(goal: Goal, mine: Measurement, theirs: Measurement) -> bool:
    """Whether each is outside of the other's interval; sizes have none, and must only differ.

    An interval is where measuring the same again would lead: there is no need for two of them to
    be apart.
    """
    if goal.rising:
        return mine.value < theirs.low and mine.high < theirs.value
    return mine.value > theirs.high and mine.low > theirs.value


def _best(goal: Goal, rival: Incumbent, incumbents: Sequence[Incumbent]) -> bool:
    values = [i.measurements[goal.name].value for i in incumbents]
    own = rival.measurements[goal.name].value
    return own >= max(values) if goal.rising else own <= min(values)


def rungs(steps: int) -> dict[int, str]:
    """Return the names of a training's rungs by the step that reaches them."""
    if steps < WORTHWHILE:
        return {}
    return {round(share * steps): f"{share:.0%} of training" for share in SHARES}


class Ladder:
    """What trials have shown at each rung of their training, as one search goes on."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self._goals = goals
        self._seen: dict[str, dict[int, tuple[float, ...]]] = {}

    def judge(self, trial: int, rung: Rung) -> str | None:
        """Return why a trial should be stopped at a rung, None if it should go on.

        Asynchronous successive halving (Li et al. 2020) with the trials ranked by non-domination
        (Schmucker et al. 2021, MO-ASHA): a trial stops when at least half of those that came as
        far are on better fronts. The first front never stops. Rungs are shares of the training
        rather than steps, since the learning rate falls along each one's own schedule.
        """
        if not all(goal.name in rung.measurements for goal in self._goals):
            return None
        seen = self._seen.setdefault(rung.name, {})
        seen[trial] = tuple(self._cost(goal, rung.measurements[goal.name]) for goal in self._goals)
        if len(seen) < FEWEST:
            return None
        fronts = dict(zip(seen, front_numbers(list(seen.values())), strict=True))
        ahead = sum(front < fronts[trial] for front in fronts.values())
        if fronts[trial] == 0 or 2 * ahead < len(seen):
            return None
        return f"after {rung.name}, {ahead} of {len(seen)} trials are on better fronts"

    @staticmethod
    def _cost(goal: Goal, found: Measurement) -> float:
        return -found.value if goal.rising else found.value
