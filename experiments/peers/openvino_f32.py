"""OpenVINO: the converted model, computed in float32.

Source: https://docs.openvino.ai, "Convert from PyTorch" and "High-level Performance Hints".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
from torch import nn

from peers._plain import OPENVINO, OpenvinoProgram, Program, convert_openvino

TITLE = "OpenVINO, float32"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the converted model."""
    converted = convert_openvino(model, example_inputs)
    openvino.save_model(converted, folder / OPENVINO, compress_to_fp16=False)


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the compiled model."""
    return OpenvinoProgram(folder / OPENVINO, threads, "f32")
