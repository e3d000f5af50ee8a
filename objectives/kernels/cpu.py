"""Low-bit kernels of CPUs: FBGEMM's and PyTorch's own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.exporting import Rounded, torch_modules
from objectives.kernels import fbgemm, torch_private
from objectives.kernels.kernels import GPU_ONLY, FourBits, Kernels
from spaces import Precision, first_line


class Cpu(Kernels):
    """FBGEMM's dynamic 8-bit layers, and PyTorch's own kernels for weights in few bits."""

    device = "cpu"
    eight_bit_weights = True

    def lacks(self, dtype: Precision) -> str | None:
        """Reason why models are not computed in `dtype` on this CPU; None if they are.

        A convolution, a normalisation, an activation and a linear layer are tried, since the
        half-precision operators of CPUs differ from release to release of PyTorch.
        """
        if dtype in GPU_ONLY:
            return f"PyTorch multiplies in {dtype} on GPUs only."
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
        """Reason why there are no 8-bit linear layers in models of `dtype`; None if there are."""
        if dtype != "float32":
            return f"Eager PyTorch's 8-bit layers return float32, not {dtype}."
        return fbgemm.lacks_integers()

    def fits(self, layer: nn.Linear) -> bool:
        """Return True, since FBGEMM takes layers of any size."""
        del layer
        return True

    def integer_linear(self, weight: Rounded, bias: Tensor | None) -> nn.Module:
        """Return FBGEMM's dynamic layer."""
        return fbgemm.DynamicLinear(weight, bias)

    def four_bits(self) -> FourBits:
        """Return the kernel for weights in 4 bits."""
        return FourBits(
            rows=16,
            columns=1,
            pack=torch_private.packed_for_cpu,
            product=torch_private.int4_weight_product_cpu,
        )
