"""Probability that a trial does not fail, from its nearest neighbours among ended trials."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NEAR = 0.5
"""Distance at which a trial's weight has fallen to exp(-1/2), as a share of the spread."""
DOUBT = 0.5
"""Weight of the belief that nothing fails, in trials at the same point."""


def success(
    features: NDArray[np.float64], known: NDArray[np.float64], succeeded: Sequence[bool]
) -> NDArray[np.float64]:
    """Return the probability of success at each point, a weighted share of the known trials.

    Without failures it is 1. Far from all trials it is 1 too, as nothing speaks against it.
    """
    outcomes = np.array(succeeded, dtype=float)
    if outcomes.all():
        return np.ones(len(features))
    squares = (features**2).sum(1)[:, None] + (known**2).sum(1) - 2.0 * features @ known.T
    typical = float((known.var(axis=0)).sum()) or 1.0
    weights = np.exp(-0.5 * np.maximum(squares, 0.0) / (NEAR**2 * typical))
    return np.asarray((weights @ outcomes + DOUBT) / (weights.sum(axis=1) + DOUBT))
