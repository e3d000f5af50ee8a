"""New points near the front, for when the sampler only repeats known points."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from spaces import Point, Space, drawn

ATTEMPTS = 400
"""Random points near the front that are tried before the whole space is searched."""
SWEEP = 20_000
"""Most points of a finite space that are looked through."""


def neighbour(
    space: Space,
    parents: Sequence[Point],
    generator: random.Random,
    accept: Callable[[Point], bool],
) -> Point | None:
    """Return an accepted point that differs from one of `parents` in one to four dimensions.

    After ATTEMPTS random points without success, return any accepted point of a finite space;
    None if there is none.
    """
    dimensions = space.dimensions()
    for attempt in range(ATTEMPTS):
        point = dict(generator.choice(parents))
        moved = 1 + 4 * attempt // ATTEMPTS
        for name in generator.sample(sorted(point), min(moved, len(point))):
            point[name] = drawn(dimensions[name], generator)
        point = space.canonical(point)
        if accept(point):
            return point
    return next(filter(accept, _all(space)), None)


def _all(space: Space) -> Iterator[Point]:
    """Yield the points of a finite space, up to SWEEP of them; nothing for an infinite one."""
    grids = {name: grid for name, d in space.dimensions().items() if (grid := d.values())}
    if len(grids) == len(space.dimensions()):
        for values in itertools.islice(itertools.product(*grids.values()), SWEEP):
            yield space.canonical(dict(zip(grids, values, strict=True)))
