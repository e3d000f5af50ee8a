"""NNCF: 8-bit post-training quantization, executed by OpenVINO.

Source: https://docs.openvino.ai, "Basic Quantization Flow": the defaults, and for transformers
`model_type=nncf.ModelType.TRANSFORMER`. A model is one when it normalises layers, not batches.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
from torch import nn

from peers._plain import OPENVINO, OpenvinoProgram, Program, arrays, convert_openvino

TITLE = "NNCF int8 post-training, on OpenVINO"


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write the quantized model."""
    import nncf  # here, since the process that times must not import it: it patches PyTorch

    transformer = any(isinstance(m, nn.LayerNorm) for m in model.modules())
    quantized = nncf.quantize(
        convert_openvino(model, example_inputs),
        nncf.Dataset(list(calibration), arrays),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        subset_size=len(calibration),
    )
    openvino.save_model(quantized, folder / OPENVINO, compress_to_fp16=False)


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the compiled model; what is not quantized is computed in float32."""
    return OpenvinoProgram(folder / OPENVINO, threads, "f32")
