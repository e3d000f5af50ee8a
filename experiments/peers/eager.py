"""PyTorch as it comes: the uncompressed model in eager mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_model
from torch import nn

from peers._plain import ModuleProgram, Program

TITLE = "PyTorch eager, uncompressed"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the weights."""
    save_model(model, str(folder / "model.safetensors"))


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the model itself."""
    return ModuleProgram(model)
