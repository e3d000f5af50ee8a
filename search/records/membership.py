"""Members of a Pareto front, judged by what noise can and cannot have made."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from search.records.axis import Axis
from search.records.comparison import dominates, kernel, tied
from search.records.front import feasible, fronts
from search.records.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Membership:
    """Members of a front by trial number, with what noise leaves open about them."""

    members: tuple[int, ...] = ()
    ties: Mapping[int, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Trials that no axis can tell from a member, by the member's trial."""
    doubtful: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Members whose better score may be noise, each with a member that beats it otherwise."""


def membership(records: Sequence[Record], axes: Sequence[Axis]) -> Membership:
    """Return who is on the front of the feasible records.

    A member is dominated by no other member beyond noise. Records that no axis can tell apart are
    one member, the simplest of them that no member dominates: the one with the fewest values that
    differ from the first record's, which is the unchanged model's. A record whose score is better,
    but not beyond noise, stays as a doubtful member: a small split must not cost the most accurate
    artifact. A time that is better within noise does not make a member.
    """
    best = [[], *fronts(records, axes)][-1]
    certain = kernel(best, functools.partial(dominates, axes=axes))
    lenient = kernel(best, functools.partial(dominates, axes=axes, scores_by_value=True))
    origin = min(records, key=lambda r: r.trial).point if records else {}
    ties: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    everything = feasible(records)
    for member in [*certain, *(r for r in lenient if r not in certain)]:
        if member.trial in taken:
            continue
        alike = [r for r in everything if r.trial not in taken and tied(r, member, axes)]
        alike = _simplest_first(alike, member, lenient, axes, origin)
        ties[alike[0].trial] = tuple(r.trial for r in alike[1:])
        taken |= {r.trial for r in alike}
    members = [r for r in everything if r.trial in ties]
    doubtful = {
        r.trial: rival.trial
        for r in members
        for rival in members
        if rival.trial != r.trial and dominates(rival, r, axes)
    }
    return Membership(
        members=tuple(r.trial for r in members),
        ties={trial: others for trial, others in ties.items() if others},
        doubtful=doubtful,
    )


def front(records: Sequence[Record], axes: Sequence[Axis]) -> list[Record]:
    """Return the members of the front in the order of the records: see `membership`."""
    members = set(membership(records, axes).members)
    return [record for record in records if record.trial in members]


def _simplest_first(
    alike: Sequence[Record],
    member: Record,
    members: Sequence[Record],
    axes: Sequence[Axis],
    origin: Mapping[str, object],
) -> list[Record]:
    """Return records that cannot be told apart, those that a member dominates last."""
    beaten = {
        r.trial for r in alike for o in members if dominates(o, r, axes, scores_by_value=True)
    }

    def rank(r: Record) -> tuple[bool, int, bool, int]:
        return r.trial in beaten, _changes(r, origin), r.trial != member.trial, r.trial

    return sorted(alike, key=rank)


def _changes(record: Record, origin: Mapping[str, object]) -> int:
    """Return the number of values that differ from those of the unchanged model."""
    return sum(value != origin.get(name) for name, value in record.point.items())
