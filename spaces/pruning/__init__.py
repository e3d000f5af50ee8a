"""Choose the units, blocks and single weights to remove, and refit the remaining weights."""

from spaces.pruning.blocks import find, least
from spaces.pruning.damage import ReferenceOutputs, incomparable
from spaces.pruning.goals import Goals, record
from spaces.pruning.importance import Scores, scores, weakest
from spaces.pruning.refit import fit, refit
from spaces.pruning.single import KeepZeros, input_axis, largest, magnitudes, prunable, two_of_four
from spaces.pruning.statistics import Statistics
from spaces.pruning.surgeon import Curve, curve

__all__ = [
    "Curve",
    "Goals",
    "KeepZeros",
    "ReferenceOutputs",
    "Scores",
    "Statistics",
    "allocation",
    "curve",
    "find",
    "fit",
    "incomparable",
    "input_axis",
    "largest",
    "least",
    "magnitudes",
    "prunable",
    "record",
    "refit",
    "scores",
    "two_of_four",
    "weakest",
]
