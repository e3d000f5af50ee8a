"""Convert between points and Optuna parameters that its dashboard can show as values."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from spaces import Dimension, Interval, Point, Space, rounded


def distributions_of(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of each dimension of a space, by the dimension's name."""
    return {name: _distribution(dimension) for name, dimension in space.dimensions().items()}


def point_of(params: Mapping[str, Any]) -> Point:
    """Return the point of a trial's parameters.

    Values are rounded, since Optuna returns 0.30000000000000004 for 0.3.
    """
    return {name: rounded(value) for name, value in params.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    """Return a numeric distribution for evenly spaced numbers, and a categorical one otherwise."""
    grid = dimension.values()
    if grid is None:
        assert isinstance(dimension, Interval)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    steps = _even_step(grid)
    if steps is None:
        return CategoricalDistribution(list(grid))
    low, high, step = steps
    if all(isinstance(v, int) for v in grid):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, high, step=step)


def _even_step(grid: tuple[Any, ...]) -> tuple[float, float, float] | None:
    """Return (low, high, step) of three or more evenly spaced numbers, else None."""
    if len(grid) < 3 or any(isinstance(v, str | bool) for v in grid):
        return None
    step = round((grid[-1] - grid[0]) / (len(grid) - 1), 10)
    even = all(abs(v - grid[0] - i * step) < 1e-9 for i, v in enumerate(grid))
    return (grid[0], grid[-1], step) if even and step > 0 else None
