"""Low-bit kernels of CUDA GPUs: tensor cores and PyTorch's 4-bit product."""

import torch
from torch import Tensor, nn

from objectives.exporting import Rounded
from objectives.kernels import tensor_cores, torch_private
from objectives.kernels.kernels import FourBits, Kernels
from spaces import Precision

FOUR_BITS = (8, 0)
"""The first GPUs with the kernel for weights in 4 bits: Ampere."""
_TILES = (8, 4, 2)
"""Numbers of 16-input tiles that the kernel can take at once."""


class Cuda(Kernels):
    """Tensor cores for products of 8 bits, and PyTorch's kernel for weights in 4 bits."""

    device = "cuda"
    eight_bit_weights = False  # a layer of 4096 x 4096 took 125 us, a dense one 11 us, on an H100

    def lacks(self, dtype: Precision) -> str | None:
        """Reason why this GPU has no products in float8 or TF32; other types are never refused."""
        lacks = {"float8": tensor_cores.lacks_float8, "tf32": tensor_cores.lacks_tf32}.get(dtype)
        return lacks() if lacks else None

    def lacks_integers(self, dtype: Precision) -> str | None:
        """Reason why this GPU has no fast 8-bit linear layers; None if it has."""
        del dtype  # outputs have the type of the inputs
        return tensor_cores.lacks_integers()

    def fits(self, layer: nn.Linear) -> bool:
        """True if tensor cores take the sizes of `layer`."""
        return tensor_cores.IntegerLinear.fits(layer)

    def integer_linear(self, weight: Rounded, bias: Tensor | None) -> nn.Module:
        """Return a layer that multiplies on tensor cores."""
        return tensor_cores.IntegerLinear(weight, bias)

    def four_bits(self) -> FourBits | None:
        """Return the kernel for weights in 4 bits, None on GPUs before Ampere."""
        if torch.cuda.get_device_capability() < FOUR_BITS:
            return None
        return FourBits(
            rows=8,
            columns=16 * _TILES[-1],
            pack=_packed,
            product=torch_private.int4_weight_product_cuda,
        )


def _packed(codes: Tensor) -> Tensor:
    pairs = ((codes[:, ::2] << 4) | codes[:, 1::2]).to(torch.uint8)
    tiles = next(t for t in _TILES if codes.shape[1] % (16 * t) == 0)
    return torch_private.packed_for_cuda(pairs, tiles)
