"""The Pareto front of records by their values: its history, hypervolume, and picks of members."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from search.errors import SearchError, UnknownName
from search.records.axis import Axis
from search.records.dominance import hypervolume, nondominated
from search.records.record import Record

NARROW = 0.1
"""Smallest extent in steps by which an axis is scaled, so that noise does not decide the knee."""


def feasible(records: Iterable[Record]) -> list[Record]:
    """Return the complete records that satisfy every limit, in their order."""
    return [r for r in records if r.state == "complete" and r.satisfied]


def fronts(records: Iterable[Record], axes: Sequence[Axis]) -> Iterator[list[Record]]:
    """Yield the front after each record; the same list object if the record left it unchanged.

    A record is on it if no other has values that are nowhere worse and somewhere better. Of records
    with equal values, or with the same artifact files, only the first is kept: a second measurement
    of the same artifact would be on the front by chance.
    """
    members: list[Record] = []
    identities: set[str] = set()
    for record in records:
        if feasible([record]) and record.facts.identity not in identities:
            members = _joined(members, record, axes)
            identities |= {record.facts.identity} if record.facts.identity else set()
        yield members


def _joined(members: list[Record], new: Record, axes: Sequence[Axis]) -> list[Record]:
    """Return the front of `members`, which is a front already, and one more record."""
    both = [*members, new]
    mask = nondominated([[axis.loss(record) for axis in axes] for record in both])
    return list(itertools.compress(both, mask)) if mask[-1] else members


def nearest(records: Iterable[Record]) -> Record | None:
    """Return the complete record nearest to the limits, for when none satisfies them.

    Fewest broken limits first, then the smallest sum of violations, each relative to the
    largest violation of that limit, since limits have different units.
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
    its size, nine tenths of its accuracy. An artifact as accurate and as large as the baseline
    thus has 2 if it is twice as fast, and 3 if it is four times as fast. The history never falls.
    It is 0 throughout without a measured baseline, which sets the scale.
    """
    if not all(axis.name in baseline.measurements for axis in axes):
        return [0.0] * len(records)
    history: list[float] = []
    before: list[Record] | None = None
    for members in fronts(records, axes):
        if members is not before:
            steps = [[axis.steps(r, baseline) for axis in axes] for r in members]
            volume = hypervolume(steps, [1.0] * len(axes))
        # Rounding errors must not make the history fall.
        history.append(max(volume, history[-1] if history else 0.0))
        before = members
    return history


def picks(axes: Sequence[Axis]) -> dict[str, Axis | None]:
    """Return the words that `pick` accepts for these axes, each with the axis it is the best on.

    "knee" has no axis. If several axes share a superlative, as latency and throughput do, it
    means the first of them.
    """
    axis_by_word: dict[str, Axis | None] = {"knee": None}
    for axis in sorted(axes, key=lambda axis: not axis.positive):
        if axis.superlative:
            axis_by_word.setdefault(axis.superlative, axis)
    return axis_by_word | {axis.name: axis for axis in axes}


def pick(front: Sequence[Record], word: str, axes: Sequence[Axis], baseline: Record) -> Record:
    """Return one member: knee, an axis' superlative or name, or trial=N.

    The knee is the member nearest to the ideal point (the best of every axis at once), with each
    axis in steps and scaled to the extent of the front. Ties are resolved by the axes in their
    order. Raises UnknownName for any other word, SearchError if the front is empty.
    """
    if not front:
        raise SearchError("the front is empty: no complete trial satisfies every limit.")
    if word.startswith("trial="):
        return _numbered(front, word.removeprefix("trial="))
    axis_by_word = picks(axes)
    if word not in axis_by_word:
        raise UnknownName("pick", word, [*axis_by_word, "trial=N"])
    axis = axis_by_word[word]
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
