"""Weights and activations in few bits: grids, rounding, training through rounding."""

from spaces.quantization.activations import Activations
from spaces.quantization.allocation import WIDTHS, Allocation, allocation
from spaces.quantization.encode import Encoded, encoded
from spaces.quantization.kinds import WEIGHT, Kind, kinds
from spaces.quantization.straight import Grid, allotted, constrained
from spaces.quantization.tied import Tied
from spaces.quantization.times import Time, Times

__all__ = [
    "WEIGHT",
    "WIDTHS",
    "Activations",
    "Allocation",
    "Encoded",
    "Grid",
    "Kind",
    "Tied",
    "Time",
    "Times",
    "allocation",
    "allotted",
    "constrained",
    "encoded",
    "kinds",
]
