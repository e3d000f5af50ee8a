"""Every point of a space as the trials of one run: a sampler that counts, and no early stopping."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search.executors.local import Local
from search.records import Rung
from search.samplers import History, Sampler
from search.study import Queue
from spaces import Point, Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enumeration(Sampler):
    """Proposes the points of a finite space one after another, the shortest trainings first."""

    learns = False
    selective = False
    leave_out: Sequence[Sequence[tuple[str, Any]]] = ()
    """As of `points`, each part as pairs, which a setting can be."""

    def propose(self, history: History, seed: int) -> Point | None:
        """Return the first point without a trial, or None if every point has one."""
        del seed
        known = {key(history.space.canonical(o.point)) for o in history.observations}
        wanted = points(history.space, [dict(part) for part in self.leave_out])
        return next((p for p in wanted if key(p) not in known), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Local):
    """The local executor, which stops no trial before its end."""

    def run(self, queue: Queue) -> None:
        """Evaluate one point after another until the queue has none."""
        while pending := queue.ask():
            listener = functools.partial(queue.progress, pending)
            queue.tell(pending, self.evaluate(pending, _never, listener))

    def explain(self, *_: object) -> dict[str, object]:
        """Return no steps: a table has every point on the way to a pick."""
        return {}


def points(space: Space, leave_out: Sequence[Mapping[str, Any]] = ()) -> list[Point]:
    """Return the canonical points of a finite space, once each, the shortest trainings first.

    A point is left out if one of `leave_out` holds: each dimension in it has the value, or one of
    the list of values, that it names.
    """
    unique = {key(point): point for point in _all(space)}
    kept = (p for p in unique.values() if not any(_holds(part, p) for part in leave_out))
    return sorted(kept, key=lambda point: space.plan(point).recovery.steps)


def key(point: Point) -> str:
    """Return a text that equal points share."""
    return json.dumps(point, sort_keys=True)


def _holds(part: Mapping[str, Any], point: Point) -> bool:
    return all(point[k] in (v if isinstance(v, list) else [v]) for k, v in part.items())


def _all(space: Space) -> Iterator[Point]:
    grids = {name: dimension.values() or () for name, dimension in space.dimensions().items()}
    for values in itertools.product(*grids.values()):
        yield space.canonical(dict(zip(grids, values, strict=True)))


def _never(rung: Rung) -> str | None:
    del rung
    return None
