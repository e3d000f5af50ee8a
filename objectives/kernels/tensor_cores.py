"""Linear layers that multiply 8-bit integers or float8 on the tensor cores of GPUs."""

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.exporting import Rounded, torch_modules
from objectives.kernels import torch_private

TF32, INTEGERS, FLOAT8 = (8, 0), (8, 0), (8, 9)
"""First compute capabilities with such products: of TF32 and integers Ampere, of float8 Ada."""


def lacks_tf32() -> str | None:
    """Reason why this GPU does not round float32 factors to TF32; None if it does."""
    if torch.cuda.get_device_capability() < TF32:
        return f"{torch.cuda.get_device_name()} has no TF32 tensor cores."
    return None


def lacks_integers() -> str | None:
    """Reason why this GPU has no fast products of 8-bit integers; None if it has."""
    if torch.cuda.get_device_capability() < INTEGERS:
        return f"{torch.cuda.get_device_name()} has no fast 8-bit tensor cores."
    return None


def lacks_float8() -> str | None:
    """Reason, in one sentence, why this GPU does not multiply in float8; None if it does."""
    if torch.cuda.get_device_capability() < FLOAT8:
        return f"{torch.cuda.get_device_name()} has no float8 tensor cores."
    return None


class RowScaled(nn.Module, abc.ABC):
    """A linear layer of 8-bit weights; each row of its input is scaled to 8 bits at every call.

    Weights have one scale per output, inputs one scale per row, computed from the row.
    """

    multiple: int
    """The numbers of inputs and of outputs must be multiples of this."""
    top: float
    """The largest 8-bit number."""
    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Rounded, bias: Tensor | None, bias_dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("values", weight.values.contiguous().t())
        self.register_buffer("scale", weight.scale.float().reshape(1, -1))
        self.register_buffer("bias", None if bias is None else bias.detach().to(bias_dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., outputs) in the type of the inputs."""
        rows = torch_modules.rows_of(inputs)
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True, dtype=torch.float)
        scale = (largest / self.top).clamp(min=torch.finfo(torch.float32).tiny)
        outputs = self.product(rows / scale, scale)
        return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], -1)

    @abc.abstractmethod
    def product(self, steps: Tensor, scale: Tensor) -> Tensor:
        """Return outputs (rows, outputs) for inputs in `steps` of `scale`, which is (rows, 1)."""

    @classmethod
    def fits(cls, layer: nn.Linear) -> bool:
        """True if tensor cores take the sizes of `layer`."""
        return layer.in_features % cls.multiple == 0 and layer.out_features % cls.multiple == 0


class IntegerLinear(RowScaled):
    """A linear layer that multiplies 8-bit integers and sums in 32 bits.

    Source: Dettmers et al. 2022, LLM.int8(), section 3 (vector-wise quantization).
    """

    multiple = 8
    top = 127.0
    min_rows = 32
    """Smallest number of rows of an integer product; fewer are padded with zeros."""

    def __init__(self, weight: Rounded, bias: Tensor | None) -> None:
        super().__init__(weight, bias, torch.float32)

    def product(self, steps: Tensor, scale: Tensor) -> Tensor:
        """Return outputs in float32."""
        integers = steps.round().to(torch.int8)
        missing = max(0, self.min_rows - len(integers))
        padded = F.pad(integers, (0, 0, 0, missing))
        sums = torch_private.int8_product(padded, self.values)[: len(integers)]
        outputs = sums.float() * scale * self.scale
        return outputs if self.bias is None else outputs + self.bias


class Float8Linear(RowScaled):
    """A linear layer that multiplies 8-bit floating-point numbers.

    Source: Micikevicius et al. 2022, FP8 formats for deep learning, sections 3 and 4 (E4M3,
    scaling).
    """

    multiple = 16
    top = torch.finfo(torch.float8_e4m3fn).max

    def __init__(self, weight: Rounded, bias: Tensor | None) -> None:
        super().__init__(weight, bias, torch.bfloat16)

    def product(self, steps: Tensor, scale: Tensor) -> Tensor:
        """Return outputs in bfloat16."""
        # a rounded quotient may exceed the top by a step, which would become NaN
        rounded = steps.clamp(-self.top, self.top).to(torch.float8_e4m3fn)
        return torch_private.float8_product(rounded, self.values, scale, self.scale, self.bias)
