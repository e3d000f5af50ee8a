"""OpenVINO: the converted model, computed in bfloat16, its default where the CPU has it.

Source: https://docs.openvino.ai, "Precision Control". Weights are stored as float16, the default.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
from torch import nn

from peers._plain import OPENVINO, OpenvinoProgram, Program, Skipped, convert_openvino

TITLE = "OpenVINO, bfloat16"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the converted model."""
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise Skipped("this CPU has no bfloat16 instructions that OpenVINO uses")
    openvino.save_model(convert_openvino(model, example_inputs), folder / OPENVINO)


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the compiled model."""
    return OpenvinoProgram(folder / OPENVINO, threads, "bf16")
