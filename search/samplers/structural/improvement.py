"""Expected improvement of a front, exact for two objectives, by quasi-random points for more.

Each objective is normal, or log-normal, and independent of the others. Source: Emmerich, Yang and
Deutz 2016, A multicriteria generalization of Bayesian global optimization.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import qmc

Matrix = NDArray[np.float64]

SAMPLES = 1024
"""Number of points that stand for the volume beyond the front of three or more objectives."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """Predictions of one objective at several points: normal, or normal in the logarithm."""

    mean: Matrix
    deviation: Matrix
    log: bool
    ideal: float = -np.inf
    """Value below which less is worth no more."""

    def middle(self) -> Matrix:
        """Return the median of each point."""
        return np.asarray(np.exp(self.mean)) if self.log else self.mean

    def below(self, levels: Matrix) -> Matrix:
        """Return the probability of values below each level, points x levels."""
        if self.log:
            levels = np.log(np.maximum(levels, 1e-300))
        return np.asarray(ndtr((levels - self.mean[:, None]) / self.deviation[:, None]))

    def short_of(self, levels: Matrix) -> Matrix:
        """Return by how much values are below each level on average, points x levels.

        Values above a level count 0, and those below the ideal count as the ideal.
        """
        if np.isinf(self.ideal):
            return self._short_of(levels)
        worth = self._short_of(np.maximum(levels, self.ideal))
        return np.asarray(worth - self._short_of(np.array([self.ideal])))

    def _short_of(self, levels: Matrix) -> Matrix:
        mean, deviation = self.mean[:, None], self.deviation[:, None]
        if not self.log:
            score = (levels - mean) / deviation
            density = np.exp(-0.5 * score**2) / np.sqrt(2.0 * np.pi)
            return np.asarray((levels - mean) * ndtr(score) + deviation * density)
        score = (np.log(np.maximum(levels, 1e-300)) - mean) / deviation
        average = np.exp(mean + 0.5 * deviation**2)
        gain = levels * ndtr(score) - average * ndtr(score - deviation)
        return np.asarray(np.maximum(gain, 0.0))


def improvement(outlooks: Sequence[Outlook], front: Matrix, reference: Matrix) -> Matrix:
    """Return the expected gain of hypervolume at each point.

    `front` are members x objectives, none dominated, all better than `reference`; it may be empty.
    """
    if len(outlooks) == 1:
        best = np.append(front[:, 0], reference[0]).min(keepdims=True)
        return outlooks[0].short_of(best)[:, 0]
    if len(outlooks) == 2:
        return _strips(outlooks, front, reference)
    return _sampled(outlooks, front, reference)


def _strips(outlooks: Sequence[Outlook], front: Matrix, reference: Matrix) -> Matrix:
    """Sum over the strips between neighbours of the front, in which the other bound is constant."""
    steps = front[np.argsort(front[:, 0])]
    first = outlooks[0].short_of(np.append(steps[:, 0], reference[0]))
    widths = np.diff(first, axis=1, prepend=0.0)
    heights = outlooks[1].short_of(np.concatenate([reference[1:], steps[:, 1]]))
    return np.asarray((np.maximum(widths, 0.0) * heights).sum(axis=1))


def _sampled(outlooks: Sequence[Outlook], front: Matrix, reference: Matrix) -> Matrix:
    """Average the probability of dominating points that the front does not dominate."""
    best = [
        np.exp(o.mean - 2.0 * o.deviation) if o.log else o.mean - 2.0 * o.deviation
        for o in outlooks
    ]
    low = np.minimum([b.min() for b in best], front.min(axis=0) if len(front) else reference)
    low = np.minimum(np.maximum(low, [o.ideal for o in outlooks]), reference)
    points = low + qmc.Sobol(len(low), seed=0).random(SAMPLES) * (reference - low)
    beaten = (front[None] <= points[:, None]).all(axis=2).any(axis=1)
    free = points[~beaten]
    chances = np.ones((len(outlooks[0].mean), len(free)))
    for objective, outlook in enumerate(outlooks):
        chances *= outlook.below(free[:, objective])
    return np.asarray(chances.sum(axis=1) * np.prod(reference - low) / SAMPLES)
