"""Sparse tensors in safetensors files: nonzero values and their indices, restored exactly."""

from collections.abc import Mapping

import torch
from torch import Tensor

PLACES = ".places"
"""Suffix for the name of the tensor that stores the shape and indices of a sparse one."""
_HEADER = 160
"""Bytes that one more tensor adds to the header of a safetensors file, at most."""
_BITMASK, _GAPS4, _GAPS8 = 1, 4, 8
"""Forms of indices in a file: a bit per element, or gaps of 4 or 8 bits between values."""

Tensors = Mapping[str, Tensor]


def packed(tensors: Tensors) -> dict[str, Tensor]:
    """Return `tensors` with each one in sparse form if that takes fewer bytes.

    A sparse tensor keeps its name for its nonzero values, in order. A second tensor of bytes, with
    the suffix PLACES, holds the form, the shape and the indices: one bit per element, or the gaps
    between values in 4 or 8 bits (Han et al. 2016, Deep compression, section 2), whichever is
    shortest.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        indices = _indices(tensor)
        if indices is None:
            stored[name] = tensor
        else:
            stored[name] = tensor.flatten()[_present(tensor)].clone()
            stored[name + PLACES] = indices
    return stored


def unpacked(tensors: Tensors) -> dict[str, Tensor]:
    """Undo `packed`. Raises ValueError on an unknown form of indices."""
    dense = {}
    for name, tensor in tensors.items():
        if name.endswith(PLACES) and name.removesuffix(PLACES) in tensors:
            continue
        indices = tensors.get(name + PLACES)
        dense[name] = tensor if indices is None else _dense(tensor, indices)
    return dense


def _present(tensor: Tensor) -> Tensor:
    """Return a flat mask of the elements with any bit set, so that negative zeros are stored."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return (flat.view(torch.uint8).reshape(flat.numel(), -1) != 0).any(1)


def _indices(tensor: Tensor) -> Tensor | None:
    """Return form, shape and indices of the values as bytes; None if dense is shorter."""
    if tensor.numel() == 0 or tensor.dim() == 0:
        return None
    present = _present(tensor)
    count = int(present.sum())
    saved = (present.numel() - count) * tensor.element_size() - _HEADER - 8 * (tensor.dim() + 2)
    if saved <= present.numel() / 16:  # indices take more in any form
        return None
    gaps = torch.diff(present.nonzero().flatten(), prepend=torch.tensor([-1])) - 1
    forms = {_BITMASK: _packed_bits(present)}
    forms |= {_GAPS4: _packed_nibbles(_escaped(gaps, 15)), _GAPS8: _escaped(gaps, 255)}
    kind, body = min(forms.items(), key=lambda item: len(item[1]))
    head = torch.tensor([kind, tensor.dim(), *tensor.shape], dtype=torch.int64).view(torch.uint8)
    return torch.cat([head, body]) if len(body) < saved else None


def _dense(values: Tensor, indices: Tensor) -> Tensor:
    """Return the tensor with `values` at the elements that the bytes of `_indices` describe."""
    kind, dims = indices[:16].clone().view(torch.int64).tolist()
    head = 16 + 8 * dims
    shape = indices[16:head].clone().view(torch.int64).tolist()
    body = indices[head:]
    dense = torch.zeros(shape, dtype=values.dtype).flatten()
    if kind == _BITMASK:
        positions = _unpacked_bits(body)[: dense.numel()].nonzero().flatten()
    elif kind in (_GAPS4, _GAPS8):
        steps = _unpacked_nibbles(body) if kind == _GAPS4 else body
        positions = _positions(steps, 15 if kind == _GAPS4 else 255)[: len(values)]
    else:
        raise ValueError(f"unknown form of sparse tensor {kind}, know 1, 4 and 8")
    dense[positions] = values
    return dense.view(shape)


def _packed_bits(present: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(present.to(torch.uint8), (0, -len(present) % 8))
    weights = 2 ** torch.arange(8, dtype=torch.uint8)
    return (padded.view(-1, 8) * weights).sum(1, dtype=torch.uint8)


def _unpacked_bits(body: Tensor) -> Tensor:
    return (body[:, None] >> torch.arange(8, dtype=torch.uint8)).bitwise_and(1).flatten()


def _escaped(gaps: Tensor, top: int) -> Tensor:
    """Return gaps as bytes below `top`; each byte equal to `top` before one adds `top` to it."""
    escapes = gaps // top
    ends = (escapes + 1).cumsum(0) - 1
    body = torch.full((int(ends[-1]) + 1 if len(ends) else 0,), top, dtype=torch.uint8)
    body[ends] = (gaps % top).to(torch.uint8)
    return body


def _positions(steps: Tensor, top: int) -> Tensor:
    """Return the positions of values, given the escaped gaps between them."""
    final = steps < top
    positions = torch.where(final, steps.long() + 1, top).cumsum(0) - 1
    return positions[final]


def _packed_nibbles(body: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(body, (0, len(body) % 2)).view(-1, 2)
    return padded[:, 0] | (padded[:, 1] << 4)


def _unpacked_nibbles(body: Tensor) -> Tensor:
    return torch.stack([body & 15, body >> 4], 1).flatten()
