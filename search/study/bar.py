"""When a candidate cannot reach the front whatever its training brings."""

import dataclasses
from collections.abc import Mapping, Sequence

from objectives import Measurement
from search.experiment import Goal
from search.study.front import feasible
from search.study.record import Record


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
