"""ONNX Runtime: static quantization, QDQ format, signed activations and weights, per channel.

Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, which
advises pre-processing first, static quantization for convolutional networks, S8S8 with QDQ as
the first choice, and calibration by minimum and maximum as the default.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from peers._plain import ONNX, OnnxProgram, Program, arrays, export_onnx

TITLE = "ONNX Runtime, int8 static (QDQ, per channel)"


class _Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
    """Hands calibration batches to the quantizer."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.feeds: Iterator[dict[str, Any]] = (
            {f"input_{i}": array for i, array in enumerate(arrays(batch))} for batch in batches
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None after the last one."""
        return next(self.feeds, None)


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the quantized model."""
    quantize(model, example_inputs, calibration, folder, activation_type=QuantType.QInt8)


def quantize(
    model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path, **settings: Any
) -> None:
    """Write the model quantized with `settings` beside what is advised for all."""
    with tempfile.TemporaryDirectory() as scratch:
        exported, prepared = Path(scratch) / "exported.onnx", Path(scratch) / "prepared.onnx"
        export_onnx(model, example_inputs, exported)
        quant_pre_process(str(exported), str(prepared))
        quantize_static(
            str(prepared),
            str(folder / ONNX),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            **settings,
        )


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return a session."""
    return OnnxProgram(folder / ONNX, threads)
