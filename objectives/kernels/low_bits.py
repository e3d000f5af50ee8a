"""Linear layers that keep weights in 4 or 8 bits, by PyTorch's weight-only kernels."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from objectives.exporting import torch_modules
from objectives.kernels import torch_private
from objectives.kernels.by_device import kernels_of
from objectives.kernels.kernels import FourBits
from spaces.modules import Codes

_GROUPS = (256, 128, 64, 32)
"""Numbers of inputs that may share a scale in the 4-bit kernel."""
_TOP = 15
"""The largest code of 4 bits."""


def with_codes(model: nn.Module, codes: Mapping[str, Codes], skip: Collection[str] = ()) -> int:
    """Replace plain linear layers of `model`, in place, by layers that multiply by their codes.

    Returns the number of replaced layers. `codes` are by parameter. The model is on its device, in
    its type and only for inference. Layers whose codes, sizes or type have no kernel stay as they
    are, and so do the layers named in `skip`.
    """
    count = 0
    for name, weight_codes in codes.items():
        path, _, field = name.rpartition(".")
        if not path or path in skip:  # the model itself has no parent to hold a replacement
            continue
        layer = model.get_submodule(path)
        if field != "weight" or type(layer) is not nn.Linear:
            continue
        if (kernel := _kernel(layer, weight_codes)) is not None:
            model.set_submodule(path, kernel)
            count += 1
    return count


def _kernel(layer: nn.Linear, codes: Codes) -> nn.Module | None:
    weight = layer.weight
    if codes.book is not None or len(codes.shape) != 2:
        return None
    kernels = kernels_of(weight.device.type)
    if codes.bits == 8 and codes.codes.shape[1] == 1 and kernels.eight_bit_weights:
        return EightBitLinear(codes, layer.bias, weight)
    # bfloat16 only: in float32 the CPU's kernel is a plain loop, 20 times slower than a dense layer
    if codes.bits <= 4 and weight.dtype is torch.bfloat16 and fits(codes, kernels.four_bits()):
        return FourBitLinear(codes, layer.bias, weight)
    return None


def fits(codes: Codes, kernel: FourBits | None) -> bool:
    """True if a 4-bit kernel takes the sizes and groups of a weight."""
    if kernel is None or codes.rows % kernel.rows or codes.columns % kernel.columns:
        return False
    return _group(codes) is not None


def _group(codes: Codes) -> int | None:
    """Return the kernel's group size, None if none fits; a row with one scale is divided."""
    group = codes.codes.shape[2]
    if codes.codes.shape[1] > 1:
        return group if group in _GROUPS else None
    return next((g for g in _GROUPS if group % g == 0), None)


class FourBitLinear(nn.Module):
    """A linear layer whose weight stays in 4 bits in memory; codes of fewer bits take 4 as well.

    Its kernels multiply in bfloat16 by (code - 8) x scale + offset, with scale and offset in
    bfloat16. Codes of fewer bits are shifted towards 8 first: a smaller offset loses less when it
    is rounded.
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None, like: Tensor) -> None:
        super().__init__()
        group, kernel = _group(codes), kernels_of(like.device.type).four_bits()
        assert group is not None
        assert kernel is not None
        self.outputs, self.group, self._product = codes.rows, group, kernel.product
        centred, zero = _centred(codes)
        device = like.device
        centred = centred.reshape(codes.rows, codes.columns).to(device)
        self.register_buffer("packed", kernel.pack(centred))
        pairs = torch.stack([codes.scale.expand_as(zero), (8 - zero) * codes.scale], -1)
        pairs = pairs.reshape(codes.rows, -1, 2)
        pairs = pairs.repeat_interleave(codes.columns // group // pairs.shape[1], dim=1)
        self.register_buffer("scales", pairs.transpose(0, 1).contiguous().to(like))
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., outputs) in bfloat16."""
        rows = torch_modules.rows_of(inputs)
        outputs = self._product(rows, self.packed, self.group, self.scales)
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], self.outputs)


def _centred(codes: Codes) -> tuple[Tensor, Tensor]:
    """Shift codes and zero points, (rows, groups, ...), as near to 8 as 4 bits allow."""
    zero = codes.zero.expand(*codes.codes.shape[:2], 1)
    room = _TOP - (2**codes.bits - 1)
    shift = (8 - zero).round().clamp(0, room)
    return (codes.codes.float() + shift).to(torch.int32), zero + shift


class EightBitLinear(nn.Module):
    """A linear layer whose weight stays in 8 bits in memory, with one scale per output."""

    values: Tensor
    scale: Tensor
    offset: Tensor | None
    bias: Tensor | None

    def __init__(self, codes: Codes, bias: Tensor | None, like: Tensor) -> None:
        super().__init__()
        scale = codes.scale.expand(codes.rows, 1, 1).flatten()
        zero = codes.zero.expand(codes.rows, 1, 1).flatten()
        values = (codes.codes.reshape(codes.shape).short() - 128).to(torch.int8)
        self.register_buffer("values", values.to(like.device))
        self.register_buffer("scale", scale.to(like))
        # the kernel has no zero points: their part of an output is the sum of inputs x offset
        offset = None if bool((zero == 128).all()) else ((128 - zero) * scale).to(like)
        self.register_buffer("offset", offset)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs (..., outputs) in the type of the inputs."""
        rows = torch_modules.rows_of(inputs)
        outputs = torch_private.int8_weight_product(rows, self.values, self.scale)
        if self.offset is not None:
            total = rows.sum(1, keepdim=True, dtype=torch.float32).to(rows.dtype)
            outputs = torch.addcmul(outputs, total, self.offset)
        outputs = outputs if self.bias is None else outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], -1)
