"""Linear layers whose products are of 8-bit floating-point numbers, on GPUs that have them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from objectives.runtimes._stored import Rounded

CAPABILITY = (8, 9)
"""The first GPUs whose tensor cores take float8: Ada; Hopper is (9, 0)."""
_MULTIPLE = 16
"""Inputs and outputs of such a layer are a multiple of this."""


def lacks_float8() -> str | None:
    """Return in one sentence why the GPU does not multiply in float8, None if it does."""
    if torch.cuda.get_device_capability() < CAPABILITY:
        return f"{torch.cuda.get_device_name()} has no float8 tensor cores."
    return None


def fits(layer: nn.Linear) -> bool:
    """Whether tensor cores take the sizes of a linear layer in float8."""
    return layer.in_features % _MULTIPLE == 0 and layer.out_features % _MULTIPLE == 0


class Float8Linear(nn.Module):
    """A linear layer of float8 weights; each row of its input is scaled to float8 at every call.

    A scale for each output and for each input row, found as it comes. Source: Micikevicius et al.
    2022, FP8 formats for deep learning, sections 3 and 4 (E4M3, scaling).
    """

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Rounded, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("values", weight.values.contiguous().t())
        self.register_buffer("scale", weight.scale.float().reshape(1, -1))
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., outputs) in the type of the inputs."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        top = torch.finfo(torch.float8_e4m3fn).max
        largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True, dtype=torch.float)
        scale = (largest / top).clamp(min=torch.finfo(torch.float32).tiny)
        # rounding the quotient to 16 bits may exceed the top by a step, and that is not a number
        small = (rows / scale).clamp(-top, top).to(torch.float8_e4m3fn)
        found = torch._scaled_mm(
            small,
            self.values,
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return found.to(inputs.dtype).reshape(*inputs.shape[:-1], -1)


def with_float8(model: nn.Module, layers: Mapping[str, Rounded]) -> nn.Module:
    """Return `model` with the named linear layers in float8, edited in place."""
    for name, weight in layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        model.set_submodule(name, Float8Linear(weight, layer.bias))
    return model
