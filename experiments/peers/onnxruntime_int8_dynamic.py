"""ONNX Runtime: dynamic quantization, advised for transformers.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from peers._plain import ONNX, OnnxProgram, Program, export_onnx

TITLE = "ONNX Runtime, int8 dynamic"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the quantized model."""
    with tempfile.TemporaryDirectory() as scratch:
        exported, prepared = Path(scratch) / "exported.onnx", Path(scratch) / "prepared.onnx"
        export_onnx(model, example_inputs, exported)
        quant_pre_process(str(exported), str(prepared))
        quantize_dynamic(str(prepared), str(folder / ONNX), weight_type=QuantType.QInt8)


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return a session."""
    return OnnxProgram(folder / ONNX, threads)
