"""8-bit linear layers of CPUs, through FBGEMM: activations are rounded as they come."""

import functools
import warnings
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
        self._narrow = saturates()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs in float32."""
        outputs: Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, self._narrow)
        return outputs


def _packed(weight: stored_modules.Rounded, bias: Tensor | None) -> Any:
    """Return FBGEMM's form of an integer weight."""
    with warnings.catch_warnings():
        # the only way to these kernels; without it `refuses` answers
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        whole = torch_private.quantized_by_row(weight.values, weight.scale)
    return torch.ops.quantized.linear_prepack(whole, bias)


def _sum_of_ones(*, narrow: bool) -> float:
    """Return 64 ones added up by the 8-bit kernel with its largest integers.

    `narrow` keeps the inputs to 7 bits.
    """
    packed = _packed(stored_modules.rounded(torch.ones(8, 64)), None)
    return float(torch.ops.quantized.linear_dynamic(torch.ones(1, 64), packed, narrow)[0, 0])


@functools.cache
def saturates() -> bool:
    """Whether full 8-bit inputs overflow: AVX2 adds pairs of products in 16 bits, VNNI in 32."""
    return abs(_sum_of_ones(narrow=False) - 64) > 1


def lacks_integers() -> str | None:
    """Return why this PyTorch has no 8-bit linear layers for this CPU, None if it has."""
    try:
        total = _sum_of_ones(narrow=True)
    except (RuntimeError, AttributeError) as error:
        return f"This PyTorch has no 8-bit linear layer for this CPU ({first_line(error)})."
    return None if abs(total - 64) < 1 else "This PyTorch's 8-bit linear layer computes wrongly."
