"""Scaling of features by a sample of the space, so that priors mean the same in every group."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.samplers import Features, History
from search.samplers.structural import candidates
from search.samplers.structural.features import generic
from search.samplers.structural.parameters import simplified
from spaces import Point

SAMPLE = 128
"""Number of random points by whose spread the features are scaled."""

Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Features that share one length scale: columns from `start` up to `stop`."""

    name: str
    start: int
    stop: int
    minor: bool
    training: bool
    execution: bool
    timing: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns points into scaled features, the columns of a group beside each other.

    Each feature has mean 0 and variance 1 over random points of the space, divided by the number
    of features of its group: two random points have a squared distance of 2 in each group.
    """

    describe: Callable[[Sequence[Point]], Features]
    order: NDArray[np.intp]
    mean: Matrix
    scale: Matrix
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, history: History) -> "Encoder":
        """Return the encoder of a space: it depends on the space and its features alone."""
        space = history.space
        describe = history.features or (lambda points: generic(space, points))
        sample = candidates.random_points(space, SAMPLE, np.random.default_rng(0))
        features = describe(simplified(space, sample))
        names = list(dict.fromkeys(features.groups))
        order = np.argsort([names.index(g) for g in features.groups], kind="stable")
        spread = features.values.std(axis=0)[order]
        sizes = [sum(g == name for g in features.groups) for name in names]
        scale = np.where(spread > 1e-9, spread, 1.0) * np.sqrt(np.repeat(sizes, sizes))
        stops = np.cumsum(sizes).tolist()
        return cls(
            describe=describe,
            order=order,
            mean=features.values.mean(axis=0)[order],
            scale=scale,
            groups=tuple(
                Group(
                    name=name,
                    start=stop - size,
                    stop=stop,
                    minor=name in features.minor,
                    training=name in features.training,
                    execution=name in features.execution,
                    timing=name in features.timing,
                )
                for name, size, stop in zip(names, sizes, stops, strict=True)
            ),
        )

    def __call__(self, points: Sequence[Point]) -> Matrix:
        """Return the scaled features of points, points x features."""
        if not points:
            return np.zeros((0, len(self.order)))
        return (self.describe(points).values[:, self.order] - self.mean) / self.scale
