"""ONNX Runtime: the exported model, all graph optimizations on (the default).

Source: https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from peers._plain import ONNX, OnnxProgram, Program, export_onnx

TITLE = "ONNX Runtime, float32"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the exported model."""
    export_onnx(model, example_inputs, folder / ONNX)


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return a session."""
    return OnnxProgram(folder / ONNX, threads)
