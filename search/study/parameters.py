"""How points become parameters of the sampler and back, and where else new points come from."""

import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler

from spaces import Dimension, Interval, Point, Space, Value, drawn, rounded

ATTEMPTS = 400
"""Points drawn at random near the front before all of them are looked through."""
SWEEP = 20_000
"""Points of a grid that are looked through at most."""


class Codec:
    """The dimensions of a space as Optuna's distributions: numbers by rank, so order is kept."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._dimensions = space.dimensions()
        self._grids = {name: d.values() for name, d in self._dimensions.items()}
        self.distributions = {
            name: _distribution(dimension, self._grids[name])
            for name, dimension in self._dimensions.items()
        }

    def encode(self, point: Point) -> dict[str, Any]:
        """Return a point as the sampler's parameters."""
        return {
            name: list(self._grids[name] or ()).index(value) if self._ranked(name) else value
            for name, value in point.items()
        }

    def decode(self, params: Mapping[str, Any]) -> Point:
        """Return the point that the sampler's parameters mean."""
        return {
            name: (self._grids[name] or ())[value] if self._ranked(name) else rounded(value)
            for name, value in params.items()
        }

    def neighbour(
        self, parents: Sequence[Point], draw: random.Random, wanted: Callable[[Point], bool]
    ) -> Point | None:
        """Return a wanted point near one of `parents`: one dimension moved, or up to four.

        Where none is found in ATTEMPTS, any wanted point of a finite space; None if there is none.
        """
        for attempt in range(ATTEMPTS):
            point = dict(draw.choice(parents))
            moved = 1 + 4 * attempt // ATTEMPTS
            for name in draw.sample(sorted(point), min(moved, len(point))):
                point[name] = drawn(self._dimensions[name], draw)
            point = self._space.canonical(point)
            if wanted(point):
                return point
        return next(filter(wanted, self._all()), None)

    def _ranked(self, name: str) -> bool:
        return isinstance(self.distributions[name], IntDistribution)

    def _all(self) -> Iterator[Point]:
        """Yield the points of a finite space, none of any other."""
        grids = [grid for grid in self._grids.values() if grid]
        if len(grids) == len(self._grids):
            for values in itertools.islice(itertools.product(*grids), SWEEP):
                point = dict(zip(self._grids, values, strict=True))
                yield self._space.canonical(point)


def sampler(seed: int, *, parallel: bool) -> TPESampler:
    """Return the sampler with every argument stated: Optuna 5.0 changed the defaults.

    Source: Ozaki et al. 2022 (multi-objective tree-structured Parzen estimator).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            n_startup_trials=4,
            n_ei_candidates=64,
            seed=seed,
            multivariate=True,
            group=False,
            constant_liar=parallel,
        )


def _distribution(dimension: Dimension, grid: tuple[Value, ...] | None) -> BaseDistribution:
    if grid is None:
        assert isinstance(dimension, Interval)
        return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    if any(isinstance(v, str | bool) for v in grid):
        return CategoricalDistribution(list(grid))
    return IntDistribution(0, len(grid) - 1)
