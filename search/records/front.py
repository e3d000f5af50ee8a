"""Which records are worth choosing from, how much of the space they cover, and which to take."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np

from objectives import Direction, Objective
from search.errors import BadRun, SearchError, UnknownName
from search.records.dominance import hypervolume, nondominated
from search.records.record import Record

SCORE_STEP = 0.1
"""One step on a score axis, as a share of the baseline's score; on a ratio axis it is factor 2."""
NARROW = 0.1
"""Fronts narrower than this many steps count as that wide: noise must not decide the knee."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One objective as the front sees it."""

    name: str
    direction: Direction
    unit: str
    positive: bool = False
    """Whether values are above zero by nature: gains are factors, compared in the logarithm."""
    is_time: bool = False
    """Whether values are times, so that a gain is a speed-up."""
    better: tuple[str, str] | None = None
    """How a factor of gain and one of loss read: 4.71x faster, 1.20x slower."""
    superlative: str | None = None
    """What the best member on this axis is called."""

    @classmethod
    def of(cls, name: str, objective: Objective) -> Self:
        """Return the axis of an objective."""
        return cls(
            name=name,
            direction=objective.direction,
            unit=objective.unit,
            positive=objective.positive,
            is_time=objective.is_time,
            better=objective.better,
            superlative=objective.superlative,
        )

    @property
    def sign(self) -> int:
        """1 if lower is better, -1 if higher is."""
        return 1 if self.direction is Direction.MINIMIZE else -1

    def value(self, record: Record) -> float:
        """Return the record's value on this axis, in the axis' unit."""
        if self.name not in record.measurements:
            raise BadRun(f"trial {record.trial} is {record.state} but has no {self.name}.")
        return record.measurements[self.name].value

    def loss(self, record: Record) -> float:
        """Return the value with its sign turned so that lower is better."""
        return self.sign * self.value(record)

    def steps(self, record: Record, baseline: Record) -> float:
        """Return how much worse the record is than the baseline, in steps; negative is better.

        A step is a factor of 2 on a ratio axis, and SCORE_STEP of the baseline's value on others.
        """
        value, start = self.value(record), self.value(baseline)
        if self.positive:
            return self.sign * math.log2(value / start)
        return self.sign * (value - start) / (SCORE_STEP * (abs(start) or 1.0))


def gain(record: Record, axis: Axis, baseline: Record) -> float:
    """Return the factor by which the record is better than the baseline; above 1 is better."""
    ratio = axis.value(baseline) / axis.value(record)
    return ratio if axis.direction is Direction.MINIMIZE else 1 / ratio


def feasible(records: Iterable[Record]) -> list[Record]:
    """Return the complete records that satisfy every limit, in their order."""
    return [r for r in records if r.state == "complete" and r.satisfied]


def front(records: Iterable[Record], axes: Sequence[Axis]) -> list[Record]:
    """Return the feasible records that no other dominates, in their order.

    Of records that are equal on every axis only the first is kept, and of those whose artifacts
    are the same files: a second measurement of the same would stand there by luck.
    """
    return [[], *fronts(records, axes)][-1]


def fronts(records: Iterable[Record], axes: Sequence[Axis]) -> Iterator[list[Record]]:
    """Yield the front after each record; the same list again when the record changed nothing."""
    members: list[Record] = []
    known: set[str] = set()
    for record in records:
        if feasible([record]) and record.facts.identity not in known:
            members = _joined(members, record, axes)
            known |= {record.facts.identity} if record.facts.identity else set()
        yield members


def _joined(members: list[Record], new: Record, axes: Sequence[Axis]) -> list[Record]:
    """Return the front of `members` (a front already) and one more record."""
    both = [*members, new]
    kept = nondominated([[axis.loss(record) for axis in axes] for record in both])
    return list(itertools.compress(both, kept)) if kept[-1] else members


def nearest(records: Iterable[Record]) -> Record | None:
    """Return the complete record that comes nearest to the limits, for when none satisfies them.

    Fewest limits broken first; then the smallest sum of violations, each relative to the largest
    seen, since limits have different units.
    """
    complete = [r for r in records if r.state == "complete"]
    largest: dict[str, float] = {}
    for record in complete:
        for name, violation in record.limits.items():
            largest[name] = max(largest.get(name, 0.0), violation)

    def distance(record: Record) -> tuple[int, float]:
        broken = {name: v for name, v in record.limits.items() if v > 0}
        return len(broken), sum(v / largest[name] for name, v in broken.items())

    return min(complete, key=distance, default=None)


def hypervolume_history(
    records: Sequence[Record], axes: Sequence[Axis], baseline: Record
) -> list[float]:
    """Return the hypervolume of the front after each record; the baseline alone has 1.

    The reference point is one step worse than the baseline on every axis: twice its latency, twice
    its size, nine tenths of its accuracy. So an artifact as accurate and as large as the baseline
    has 2 when it is twice as fast and 3 when it is four times as fast. It never falls. Without a
    measured baseline there is no scale: it stays 0.
    """
    if not all(axis.name in baseline.measurements for axis in axes):
        return [0.0] * len(records)
    history: list[float] = []
    before: list[Record] | None = None
    for members in fronts(records, axes):
        if members is not before:
            steps = [[axis.steps(r, baseline) for axis in axes] for r in members]
            volume = hypervolume(steps, [1.0] * len(axes))
        # Rounding must not make the curve fall.
        history.append(max(volume, history[-1] if history else 0.0))
        before = members
    return history


def picks(axes: Sequence[Axis]) -> dict[str, Axis | None]:
    """Return the words that `pick` understands here, with the axis that each is the best on.

    Where several axes share a superlative, such as latency and throughput, the first has it.
    """
    words: dict[str, Axis | None] = {"knee": None}
    for axis in sorted(axes, key=lambda axis: not axis.positive):
        if axis.superlative:
            words.setdefault(axis.superlative, axis)
    return words | {axis.name: axis for axis in axes}


def pick(front: Sequence[Record], how: str, axes: Sequence[Axis], baseline: Record) -> Record:
    """Return one member: knee, an axis' superlative or name, or trial=N.

    The knee is nearest to the ideal point (the best of every axis at once), each axis in steps
    and scaled to the extent of the front. Equals are decided by the axes in their order.
    """
    if not front:
        raise SearchError("the front is empty: no complete trial satisfies every limit.")
    if how.startswith("trial="):
        return _numbered(front, how.removeprefix("trial="))
    words = picks(axes)
    if how not in words:
        raise UnknownName("pick", how, [*words, "trial=N"])
    axis = words[how]
    if axis is None:
        return _knee(front, axes, baseline)
    return min(front, key=lambda r: (axis.loss(r), *(other.loss(r) for other in axes)))


def _numbered(front: Sequence[Record], number: str) -> Record:
    members = {str(r.trial): r for r in front}
    if number not in members:
        raise UnknownName("trial on the front", number, members)
    return members[number]


def _knee(front: Sequence[Record], axes: Sequence[Axis], baseline: Record) -> Record:
    table = np.array([[axis.steps(r, baseline) for axis in axes] for r in front])
    ideal = table.min(axis=0)
    extent = np.maximum(table.max(axis=0) - ideal, NARROW)
    distance = np.linalg.norm((table - ideal) / extent, axis=1).round(12)
    order = [(d, *(axis.loss(r) for axis in axes)) for d, r in zip(distance, front, strict=True)]
    return front[min(range(len(front)), key=order.__getitem__)]
