"""A sampler for experiments that ask for certain points: those of a list, then all others."""

import dataclasses
import itertools
import json
from collections.abc import Iterator

from search.samplers import History, Sampler
from spaces import Point, Space


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed(Sampler):
    """Proposes listed points in their order, then all points of the space.

    Each is a JSON table of what differs from the unchanged model. Of the space, the last dimension
    changes fastest. It depends on nothing but the points tried, so that searches that differ in
    their workers try the same points.
    """

    learns = False
    points: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        for text in self.points:
            if not isinstance(json.loads(text), dict):
                raise ValueError(f"a point must be a JSON table, got {text!r}")

    def propose(self, history: History, seed: int) -> Point | None:
        """Return the first point that was not tried, None if all were."""
        tried = [history.space.canonical(o.point) for o in history.observations]
        points = map(history.space.canonical, self._all(history.space))
        return next((point for point in points if point not in tried), None)

    def _all(self, space: Space) -> Iterator[Point]:
        yield from (space.neutral() | json.loads(text) for text in self.points)
        grids = {name: d.values() or () for name, d in space.dimensions().items()}
        for values in itertools.product(*grids.values()):
            yield dict(zip(grids, values, strict=True))
