"""Members of the Pareto front that noise cannot have made, and the records tied with them."""

from collections.abc import Mapping, Sequence

from search.records.axis import Axis
from search.records.comparison import dominates, kernel, tied
from search.records.front import feasible, fronts
from search.records.record import Record


def front(records: Sequence[Record], axes: Sequence[Axis]) -> list[Record]:
    """Return the feasible records that no other member dominates beyond noise, in their order.

    Records that no axis can tell apart are one member, the simplest of them: see `ties`.
    """
    members = ties(records, axes)
    return [record for record in records if record.trial in members]


def ties(records: Sequence[Record], axes: Sequence[Axis]) -> Mapping[int, tuple[int, ...]]:
    """Return the trials that no axis can tell from each member of the front, by the member's trial.

    The simplest record of a tie is the member: the one with the fewest values that differ from the
    first record's, which is the unchanged model's.
    """
    candidates = feasible(records)
    best = [[], *fronts(records, axes)][-1]
    found: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    origin = min(records, key=lambda r: r.trial).point if records else {}
    for member in kernel(best, lambda own, other: dominates(own, other, axes)):
        if member.trial in taken:
            continue
        alike = [r for r in candidates if r.trial not in taken and tied(r, member, axes)]
        alike.sort(key=lambda r: (_changes(r, origin), r.trial != member.trial, r.trial))
        first, *others = alike
        found[first.trial] = tuple(r.trial for r in others)
        taken |= {r.trial for r in alike}
    return found


def _changes(record: Record, origin: Mapping[str, object]) -> int:
    """Return the number of values that differ from those of the unchanged model."""
    return sum(value != origin.get(name) for name, value in record.point.items())
