"""Choose the units, blocks and single weights to remove, and refit the remaining weights."""

from spaces.pruning.blocks import find, least
from spaces.pruning.damage import ReferenceOutputs
from spaces.pruning.importance import Scores, scores, weakest
from spaces.pruning.refit import fit, refit
from spaces.pruning.single import KeepZeros, input_axis, largest, magnitudes, prunable, two_of_four
from spaces.pruning.surgeon import Curve, curve

__all__ = [
    "Curve",
    "KeepZeros",
    "ReferenceOutputs",
    "Scores",
    "allocation",
    "curve",
    "find",
    "fit",
    "input_axis",
    "largest",
    "least",
    "magnitudes",
    "prunable",
    "refit",
    "scores",
    "two_of_four",
    "weakest",
]
