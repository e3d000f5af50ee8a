"""Infer from trials that could not be built which other points cannot be built either.

A point is ruled out only if it would repeat the failed step: the same edit of the same model,
the same export of the same shape, or the same training. A reason of wider scope, which holds for
every setting of a technique or for everything in a runtime, rules out more points.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from search.records import Impossible, Record
from spaces import Point, Scope, Space, Stage, Technique, Value


def implied(space: Space, records: Iterable[Record], point: Point) -> str | None:
    """Return the reason why the records rule a point out, or None if they do not."""
    for record in records:
        impossible = record.facts.impossible
        if impossible and _covers(space, impossible, record.point, point):
            return record.reason
    return None


def _covers(space: Space, impossible: Impossible, failed: Point, point: Point) -> bool:
    """True if the reason that stopped the point `failed` stops `point` as well."""
    rule = _RULES.get(impossible.stage)
    return rule is not None and rule(space, impossible, failed, point)


def _shape(space: Space, impossible: Impossible, failed: Point, point: Point) -> bool:
    """True if `point` repeats the failed edit on the same model: all edits before it are equal."""
    failed_edits, failed_setting = _edits(space, failed, impossible.technique)
    edits, setting = _edits(space, point, impossible.technique)
    if edits != failed_edits:
        return False
    neutral = next(s.base for s in space.slots if s.name == impossible.technique)
    return setting == failed_setting or (impossible.scope == Scope.TECHNIQUE and setting != neutral)


def _probe(space: Space, impossible: Impossible, failed: Point, point: Point) -> bool:
    """True if `point` repeats the failed export, or its runtime cannot execute this model at all.

    An export depends on the shape, the encoding and the placement.
    """
    failed_plan, plan = space.plan(failed), space.plan(point)
    if failed_plan.runtime != plan.runtime:
        return False
    if impossible.scope == Scope.RUNTIME and _unchanged(space, failed):
        return True
    same_export = (failed_plan.encoding, failed_plan.placement) == (plan.encoding, plan.placement)
    return same_export and space.shape(failed) == space.shape(point)


def _train(space: Space, impossible: Impossible, failed: Point, point: Point) -> bool:
    """True if `point` repeats the failed training, or this model cannot be trained at all.

    Training is the same in every runtime.
    """
    failed_recovery, recovery = space.plan(failed).recovery, space.plan(point).recovery
    same_training = failed_recovery == recovery or (
        impossible.scope == Scope.TECHNIQUE and recovery.steps > 0
    )
    return same_training and space.shape(failed) == space.shape(point)


_RULES: dict[str, Callable[[Space, Impossible, Point, Point], bool]] = {
    "shape": _shape,
    "probe": _probe,
    "train": _train,
}


def _edits(space: Space, point: Point, last: str | None) -> tuple[list[Technique], Technique]:
    """Return the shape edits before the technique `last`, and the setting of that technique."""
    edits = [s for s in space.settings(point) if s.stage is Stage.SHAPE]
    index = next(i for i, s in enumerate(edits) if space.name_of(s) == last)
    return edits[:index], edits[index]


def _unchanged(space: Space, point: Mapping[str, Value]) -> bool:
    """True if a point is the user's unchanged model, in any runtime."""
    plan, neutral = space.plan(point), space.plan(space.neutral())
    same = dataclasses.replace(plan, runtime=neutral.runtime) == neutral
    return same and space.shape(point) == space.shape(space.neutral())
