"""Initial design: corners of the space first, then points far from all others in features."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.samplers.structural import candidates
from search.samplers.structural.model import prior
from search.samplers.structural.parameters import simplified
from search.samplers.structural.scaling import Encoder
from spaces import Interval, Point, Space

LEVELS = (0.0, 1.0, 0.5, 0.25, 0.75)
"""Places in the order of every dimension's values that are corners and middle of the space."""
POOL = 500
"""Number of random points from which the design is chosen, besides the corners."""


def design(
    space: Space,
    encoder: Encoder,
    known: Sequence[Point],
    accept: Callable[[Point], bool],
    draw: np.random.Generator,
) -> Point | None:
    """Return the corner, else the point, that is new and farthest from all that are known.

    The first has all dimensions at their first value, the second at their last. Then corners of
    other levels and random points are compared by their distance in features, in which major groups
    count most. Points are in their simplest form. None if nothing acceptable was found.
    """
    corners = [space.canonical(corner(space, level)) for level in LEVELS]
    for place, point in enumerate(corners[:2]):
        if len(known) <= place and point not in known and accept(point):
            return point
    drawn = candidates.random_points(space, POOL, draw)
    pool = [*corners[2:], *simplified(space, drawn)]
    order = np.argsort(-apart(encoder, pool, known), kind="stable")
    simple = (space.canonical(pool[i]) for i in order)
    return next((point for point in simple if point not in known and accept(point)), None)


def apart(encoder: Encoder, pool: Sequence[Point], known: Sequence[Point]) -> NDArray[np.float64]:
    """Return the squared distance of each point to the nearest known one, by prior lengths."""
    if not known:
        return np.zeros(len(pool))
    lengths = prior([g.minor for g in encoder.groups])[: len(encoder.groups)]
    scale = np.repeat(lengths, [g.stop - g.start for g in encoder.groups])
    ours, others = encoder(pool) / scale, encoder(known) / scale
    squares = (ours**2).sum(1)[:, None] + (others**2).sum(1) - 2.0 * ours @ others.T
    return np.asarray(squares.min(axis=1))


def corner(space: Space, level: float) -> Point:
    """Return the point at which each dimension is at one level of its values' order, 0 to 1."""
    point: Point = {}
    for name, dimension in space.dimensions().items():
        grid = dimension.values()
        if grid is not None:
            point[name] = grid[round(level * (len(grid) - 1))]
        else:
            assert isinstance(dimension, Interval)
            point[name] = dimension.low + level * (dimension.high - dimension.low)
    return point
