"""Candidates for the next point: all of a small space, else random ones and neighbours."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from spaces import Dimension, Interval, Point, Space, Value, rounded

SMALL = 20_000
"""Number of points up to which all of a space are candidates."""
RANDOM = 4_000
"""Number of random candidates of a larger space."""
STEP = 0.1
"""Step along a continuous dimension, as a share of its range."""


def candidates(
    space: Space, front: Sequence[Point], neighbours: int, draw: np.random.Generator
) -> list[Point]:
    """Return all points of a small space, else random ones and some one step from `front`."""
    if math.prod(len(d.values() or range(SMALL)) for d in space.dimensions().values()) < SMALL:
        return everything(space)
    near = list(beside(space, front))
    chosen = draw.permutation(len(near))[:neighbours]
    return [*random_points(space, RANDOM, draw), *(near[i] for i in chosen)]


def everything(space: Space) -> list[Point]:
    """Return all points of a space without continuous dimensions."""
    dimensions = space.dimensions()
    grids = [d.values() or () for d in dimensions.values()]
    return [dict(zip(dimensions, values, strict=True)) for values in itertools.product(*grids)]


def random_points(space: Space, count: int, draw: np.random.Generator) -> list[Point]:
    """Return points whose values are drawn uniformly."""
    dimensions = space.dimensions()
    columns = [_drawn(dimension, count, draw) for dimension in dimensions.values()]
    return [dict(zip(dimensions, values, strict=True)) for values in zip(*columns, strict=True)]


def beside(space: Space, front: Sequence[Point]) -> Iterator[Point]:
    """Yield the points that differ from one of `front` by one step in one dimension."""
    dimensions = space.dimensions()
    for point in front:
        for name, dimension in dimensions.items():
            for value in _beside(dimension, point[name]):
                yield point | {name: value}


def key(point: Point) -> tuple[tuple[str, Value], ...]:
    """Return what tells a point from others of its space."""
    return tuple(sorted(point.items()))


def _drawn(dimension: Dimension, count: int, draw: np.random.Generator) -> list[Value]:
    grid = dimension.values()
    if grid is not None:
        return [grid[i] for i in draw.integers(len(grid), size=count)]
    assert isinstance(dimension, Interval)
    low, high = dimension.low, dimension.high
    if dimension.log:
        numbers = np.exp(draw.uniform(np.log(low), np.log(high), count)).clip(low, high)
    else:
        numbers = draw.uniform(low, high, count)
    return [rounded(float(number)) for number in numbers]


def _beside(dimension: Dimension, value: Value) -> list[Value]:
    grid = dimension.values()
    if grid is None:
        assert isinstance(dimension, Interval)
        step = STEP * (dimension.high - dimension.low)
        steps = (float(value) - step, float(value) + step)
        return [rounded(min(max(v, dimension.low), dimension.high)) for v in steps]
    if any(isinstance(v, str | bool) for v in grid):
        return [v for v in grid if v != value]
    place = int(np.argmin([abs(float(v) - float(value)) for v in grid]))
    return [grid[i] for i in (place - 1, place + 1) if 0 <= i < len(grid)]
