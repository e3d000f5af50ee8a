"""The kernels of CPUs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.exporting import Rounded, torch_modules
from objectives.kernels import fbgemm, torch_private
from objectives.kernels.kernels import FourBits, Kernels
from spaces import Precision, first_line


class Cpu(Kernels):
    """FBGEMM's dynamic layers in 8 bits, and PyTorch's own for weights alone."""

    device = "cpu"
    eight_bit_weights = True

    def lacks(self, dtype: Precision) -> str | None:
        """Return why a type is not computed in here.

        Tried on a convolution, a normalisation, an activation and a linear layer, since which
        operators exist in half precision on a CPU differs from release to release.
        """
        if dtype == "float8":
            return "PyTorch multiplies in float8 on GPUs only, from Ada and Hopper on."
        images = torch.full((1, 4, 8, 8), 0.5, dtype=torch_modules.dtype_of(dtype))
        weights = torch.full((4, 4, 3, 3), 0.5, dtype=images.dtype)
        try:
            means = F.conv2d(images, weights).mean((2, 3))
            outputs = F.linear(F.gelu(F.layer_norm(means, (4,))), weights[:, :, 0, 0])
        except RuntimeError as error:
            return f"PyTorch cannot compute in {dtype} on this CPU ({first_line(error)})."
        finite = bool(outputs.isfinite().all())
        return None if finite else f"{dtype} is not computed right on this CPU."

    def lacks_integers(self, dtype: Precision) -> str | None:
        """Return why this PyTorch has no 8-bit linear layers for this CPU."""
        if dtype != "float32":
            return f"Eager PyTorch's 8-bit layers return float32, not {dtype}."
        return fbgemm.lacks_integers()

    def fits(self, layer: nn.Linear) -> bool:
        """Return True: FBGEMM takes layers of any size."""
        del layer
        return True

    def integer_linear(self, weight: Rounded, bias: Tensor | None) -> nn.Module:
        """Return FBGEMM's layer."""
        return fbgemm.DynamicLinear(weight, bias)

    def four_bits(self) -> FourBits:
        """Return the kernel of CPUs."""
        return FourBits(
            rows=16,
            columns=1,
            pack=torch_private.packed_for_cpu,
            product=torch_private.int4_weight_product_cpu,
        )
