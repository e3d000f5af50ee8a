"""Which units and blocks of a model go, and how what is left is refitted."""

from spaces.pruning.blocks import find, least
from spaces.pruning.damage import Outputs
from spaces.pruning.importance import Scores, scores, weakest
from spaces.pruning.refit import fit, refit
from spaces.pruning.single import KeepZeros, input_axis, largest, magnitudes, prunable, two_of_four
from spaces.pruning.surgeon import Curve, curve

__all__ = [
    "Curve",
    "KeepZeros",
    "Outputs",
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
