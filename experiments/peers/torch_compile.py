"""torch.compile as it comes; it works in the process and has no file.

Source: https://docs.pytorch.org, torch.compile.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peers._plain import ModuleProgram, Program

TITLE = "torch.compile"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write nothing: the model is compiled where it runs."""


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the module, to be compiled by its first batch."""
    return ModuleProgram(torch.compile(copy.deepcopy(model)))
