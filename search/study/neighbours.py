"""New points near the front, for when a sampler repeats itself."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from spaces import Point, Space, drawn

ATTEMPTS = 400
"""Points drawn at random near the front before all of them are looked through."""
SWEEP = 20_000
"""Points of a grid that are looked through at most."""


def neighbour(
    space: Space, parents: Sequence[Point], draw: random.Random, wanted: Callable[[Point], bool]
) -> Point | None:
    """Return a wanted point near one of `parents`: one dimension moved, or up to four.

    Where none is found in ATTEMPTS, any wanted point of a finite space; None if there is none.
    """
    dimensions = space.dimensions()
    for attempt in range(ATTEMPTS):
        point = dict(draw.choice(parents))
        moved = 1 + 4 * attempt // ATTEMPTS
        for name in draw.sample(sorted(point), min(moved, len(point))):
            point[name] = drawn(dimensions[name], draw)
        point = space.canonical(point)
        if wanted(point):
            return point
    return next(filter(wanted, _all(space)), None)


def _all(space: Space) -> Iterator[Point]:
    """Yield the points of a finite space, none of any other."""
    grids = {name: grid for name, d in space.dimensions().items() if (grid := d.values())}
    if len(grids) == len(space.dimensions()):
        for values in itertools.islice(itertools.product(*grids.values()), SWEEP):
            yield space.canonical(dict(zip(grids, values, strict=True)))
