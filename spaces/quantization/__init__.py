"""Quantize weights and activations: grids, codebooks, rounding, training through rounding."""

from spaces.quantization.activations import Activations
from spaces.quantization.allocation import WIDTHS, Allocation, allocation
from spaces.quantization.encode import Encoded, encoded
from spaces.quantization.layers import layers
from spaces.quantization.straight import Grid, allotted, constrained
from spaces.quantization.tied import Tied

__all__ = [
    "WIDTHS",
    "Activations",
    "Allocation",
    "Encoded",
    "Grid",
    "Tied",
    "allocation",
    "allotted",
    "constrained",
    "encoded",
    "layers",
]
