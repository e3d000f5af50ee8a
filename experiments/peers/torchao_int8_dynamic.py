"""torchao: int8 weights and dynamically quantized int8 activations, compiled.

Source: https://docs.pytorch.org/ao, "Quantization Overview": `quantize_`, then torch.compile.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from peers._plain import Program, Skipped, share_in_linear
from peers.torch_compile_max import frozen

TITLE = "torchao int8 dynamic + torch.compile"
LEAST = 0.5
"""Share of the weights in linear layers below which quantizing those alone is pointless."""


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write nothing: the model is quantized and compiled where it runs."""
    if (share := share_in_linear(model)) < LEAST:
        raise Skipped(
            f"it quantizes linear layers only, and they hold {share:.1%} of the weights here"
        )


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the quantized module, to be compiled by its first batch."""
    quantized = copy.deepcopy(model)
    # its settings of the compiler are for GPUs, and would hold for everything in the process
    quantize_(quantized, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    return frozen(quantized)
