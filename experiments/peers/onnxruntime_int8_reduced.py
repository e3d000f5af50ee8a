"""ONNX Runtime: static quantization with 7-bit weights, for x86 without VNNI.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html: U8S8 sums
saturate on AVX2 and AVX512, and `reduce_range` is the remedy; CPUs with VNNI do not need it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxruntime.quantization import QuantType
from torch import nn

from peers._plain import ONNX, OnnxProgram, Program, Skipped, has_dot_products
from peers.onnxruntime_int8_static import quantize

TITLE = "ONNX Runtime, int8 static (U8S8, reduce_range)"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the quantized model."""
    if has_dot_products():
        raise Skipped("this CPU sums 8-bit products without saturation: plain int8 is advised")
    quantize(
        model,
        example_inputs,
        calibration,
        folder,
        activation_type=QuantType.QUInt8,
        reduce_range=True,
    )


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return a session."""
    return OnnxProgram(folder / ONNX, threads)
