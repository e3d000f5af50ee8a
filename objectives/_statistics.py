"""Intervals: how far a measured number can be trusted."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95


def of_median(samples: Sequence[float], *, blocks: int = 20, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the median of a time series.

    Consecutive samples are alike (a busy neighbour slows many in a row), so contiguous blocks
    are resampled, not samples. Source: Kunsch 1989 (moving-block bootstrap).
    """
    parts = np.array_split(np.asarray(samples, dtype=float), min(blocks, len(samples)))
    random = np.random.default_rng(seed)
    draws = random.integers(len(parts), size=(500, len(parts)))
    medians = [float(np.median(np.concatenate([parts[i] for i in row]))) for row in draws]
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def of_score(
    score: Callable[[Tensor], float], count: int, value: float, *, draws: int = 200
) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of a score over samples.

    `score` takes the indices (count,) of a resample. Where every resample agrees, which a
    bootstrap cannot tell from certainty, a share in 0..1 gets Wilson's interval instead.
    """
    generator = torch.Generator().manual_seed(0)
    values = [score(torch.randint(count, (count,), generator=generator)) for _ in range(draws)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low == high and 0 <= value <= 1:
        return wilson(value, count)
    return min(float(low), value), max(float(high), value)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share seen in `count` trials (Wilson 1927)."""
    z2 = 1.959964**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (z2 * (share * (1 - share) / count + z2 / (4 * count**2))) ** 0.5 / (1 + z2 / count)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
