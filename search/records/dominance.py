"""Pareto dominance, front numbers and hypervolume of loss vectors; lower is better.

A vector dominates another if it is nowhere worse and somewhere better.
"""

from collections.abc import Sequence

import moocore
import numpy as np

Losses = Sequence[Sequence[float]]
"""Loss vectors of equal length, one a row: shape (vectors, objectives)."""


def nondominated(losses: Losses) -> list[bool]:
    """Return a mask of the rows: True if no row dominates it and no earlier row equals it."""
    rows: list[bool] = moocore.is_nondominated(np.array(losses, float)).tolist()
    return rows


def hypervolume(losses: Losses, reference: Sequence[float]) -> float:
    """Return the volume that the rows dominate, bounded by `reference`; 0 without rows.

    Rows beyond the reference in a component add nothing. Source: Zitzler and Thiele 1998,
    Multiobjective optimization using evolutionary algorithms, section 3.
    """
    rows = np.array(losses, float).reshape(-1, len(reference))
    return float(moocore.hypervolume(rows, ref=np.array(reference, float)))
