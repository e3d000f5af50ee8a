"""What one trial that could not be built says of other points, which need not be paid for.

A point is given up only where the same would be done again: the same edit of the same model, the
same export of the same shape, the same training. A reason that says more of itself, that no
setting of a technique or nothing of a runtime is possible for this model, goes further.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from search.records import Impossible, Record
from spaces import Point, Scope, Space, Stage, Technique, Value


def implied(space: Space, records: Iterable[Record], point: Point) -> str | None:
    """Return why a point is impossible as far as the records tell, None if they do not."""
    for record in records:
        known = record.facts.impossible
        if known and _covers(space, known, record.point, point):
            return record.reason
    return None


def _covers(space: Space, known: Impossible, tried: Point, point: Point) -> bool:
    """Whether what stopped the point `tried` must stop `point` as well."""
    rule = _RULES.get(known.stage)
    return rule is not None and rule(space, known, tried, point)


def _shape(space: Space, known: Impossible, tried: Point, point: Point) -> bool:
    """Edits before the one that failed must be the same: what they leave is what it was given."""
    before, failed = _edits(space, tried, known.technique)
    same, own = _edits(space, point, known.technique)
    if same != before:
        return False
    neutral = next(s.base for s in space.slots if s.name == known.technique)
    return own == failed or (known.scope == Scope.TECHNIQUE and own != neutral)


def _probe(space: Space, known: Impossible, tried: Point, point: Point) -> bool:
    """An export depends on shape, encoding and placement; the reason may speak of the runtime."""
    then, now = space.plan(tried), space.plan(point)
    if then.runtime != now.runtime:
        return False
    if known.scope == Scope.RUNTIME and _unchanged(space, tried):
        return True
    exported = (then.encoding, then.placement) == (now.encoding, now.placement)
    return exported and space.shape(tried) == space.shape(point)


def _train(space: Space, known: Impossible, tried: Point, point: Point) -> bool:
    """Training is the same in every runtime; the reason may speak of any training."""
    then, now = space.plan(tried).recovery, space.plan(point).recovery
    alike = then == now or (known.scope == Scope.TECHNIQUE and now.steps > 0)
    return alike and space.shape(tried) == space.shape(point)


_RULES: dict[str, Callable[[Space, Impossible, Point, Point], bool]] = {
    "shape": _shape,
    "probe": _probe,
    "train": _train,
}


def _edits(space: Space, point: Point, last: str | None) -> tuple[list[Technique], Technique]:
    """Return the edits of the shape before the technique `last`, and its own setting."""
    edits = [s for s in space.settings(point) if s.stage is Stage.SHAPE]
    index = next(i for i, s in enumerate(edits) if space.name_of(s) == last)
    return edits[:index], edits[index]


def _unchanged(space: Space, point: Mapping[str, Value]) -> bool:
    """Whether a point is the user's model as it is, in whatever runtime."""
    plan, neutral = space.plan(point), space.plan(space.neutral())
    same = dataclasses.replace(plan, runtime=neutral.runtime) == neutral
    return same and space.shape(point) == space.shape(space.neutral())
