"""PyTorch linear layers in 8 bits and fewer, with the kernels of each device type."""

from objectives.kernels import fbgemm, torch_private
from objectives.kernels.by_device import kernels_of
from objectives.kernels.eight_bits import eight_bits, multiplies_in_8_bits, with_eight_bits
from objectives.kernels.low_bits import EightBitLinear, FourBitLinear, with_codes
from objectives.kernels.replaceable import linears
from objectives.kernels.semi_structured import with_semi_structured
from objectives.kernels.tensor_cores import Float8Linear

__all__ = [
    "EightBitLinear",
    "Float8Linear",
    "FourBitLinear",
    "eight_bits",
    "fbgemm",
    "kernels_of",
    "linears",
    "multiplies_in_8_bits",
    "tensor_cores",
    "torch_private",
    "with_codes",
    "with_eight_bits",
    "with_semi_structured",
]
