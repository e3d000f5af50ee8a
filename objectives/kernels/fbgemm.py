"""8-bit linear layer for CPUs by FBGEMM, which rounds its activations at every call."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from objectives.exporting import stored_modules
from objectives.kernels import torch_private
from spaces import first_line


class DynamicLinear(nn.Module):
    """A linear layer of 8-bit weights that rounds its input to integers at every call."""

    def __init__(self, weight: stored_modules.Rounded, bias: Tensor | None) -> None:
        super().__init__()
        self._packed = _packed(weight, bias)
        self._reduce_range = saturates()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., outputs) in float32."""
        product = torch.ops.quantized.linear_dynamic
        outputs: Tensor = product(inputs, self._packed, self._reduce_range)
        return outputs


def product(rows: Tensor, weight: stored_modules.Rounded) -> Callable[[], Tensor]:
    """Return a function that multiplies uint8 rows by an int8 weight, without rounding inputs.

    Its results are rounded to 8 bits again.
    """
    inputs, packed = torch_private.quantized(rows, 1.0), _packed(weight, None)
    return lambda: torch.ops.quantized.linear(inputs, packed, 1.0, 0)


def _packed(weight: stored_modules.Rounded, bias: Tensor | None) -> Any:
    """Return an int8 weight and its bias in FBGEMM's packed form."""
    with warnings.catch_warnings():
        # deprecated, but the only way to these kernels; `lacks_integers` notices its removal
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        quantized = torch_private.quantized_by_row(weight.values, weight.scale)
    return torch.ops.quantized.linear_prepack(quantized, bias)


def _sum_of_ones(*, reduce_range: bool) -> float:
    """Return the sum of 64 ones by the 8-bit kernel, in which each one is the largest integer.

    `reduce_range` rounds the inputs to 7 bits.
    """
    packed = _packed(stored_modules.rounded(torch.ones(8, 64)), None)
    return float(torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, reduce_range)[0, 0])


@functools.cache
def saturates() -> bool:
    """True if sums of 8-bit inputs overflow: AVX2 adds pairs of products in 16 bits, VNNI in 32."""
    return abs(_sum_of_ones(reduce_range=False) - 64) > 1


def lacks_integers() -> str | None:
    """Reason why this PyTorch has no 8-bit linear layers for this CPU; None if it has."""
    try:
        total = _sum_of_ones(reduce_range=True)
    except (RuntimeError, AttributeError) as error:
        return f"This PyTorch has no 8-bit linear layer for this CPU ({first_line(error)})."
    return None if abs(total - 64) < 1 else "This PyTorch's 8-bit linear layer computes wrongly."
