"""Tensors with many zeros on disk: where the others are, and their values; an exact round trip."""

from collections.abc import Mapping

import torch
from torch import Tensor

PLACES = ".places"
"""Ends the name of what says where the values of a tensor belong."""
_HEADER = 160
"""Bytes that a further tensor takes in the header of a safetensors file, at most."""
_BITMASK, _GAPS4, _GAPS8 = 1, 4, 8

Tensors = Mapping[str, Tensor]


def packed(tensors: Tensors) -> dict[str, Tensor]:
    """Return `tensors` with those in sparse form that take fewer bytes so.

    Such a tensor keeps its name for the values that are not zero, in order. Beside it, bytes say
    the form, the shape and the places: one bit for each element, or the distance to the next
    value in 4 or 8 bits (Han et al. 2016, Deep compression, section 2), whichever is shortest.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        places = _places(tensor)
        if places is None:
            found[name] = tensor
        else:
            found[name] = tensor.flatten()[_present(tensor)].clone()
            found[name + PLACES] = places
    return found


def unpacked(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors that `packed` was given."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(PLACES) and name.removesuffix(PLACES) in tensors:
            continue
        places = tensors.get(name + PLACES)
        found[name] = tensor if places is None else _dense(tensor, places)
    return found


def _present(tensor: Tensor) -> Tensor:
    """Return where an element has any bit set: a negative zero is kept."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return (flat.view(torch.uint8).reshape(flat.numel(), -1) != 0).any(1)


def _places(tensor: Tensor) -> Tensor | None:
    """Return the shortest description of where values are; None where dense is shorter."""
    if tensor.numel() == 0 or tensor.dim() == 0:
        return None
    present = _present(tensor)
    count = int(present.sum())
    saved = (present.numel() - count) * tensor.element_size() - _HEADER - 8 * (tensor.dim() + 2)
    if saved <= present.numel() / 16:  # less than the places of any form need
        return None
    gaps = torch.diff(present.nonzero().flatten(), prepend=torch.tensor([-1])) - 1
    forms = {_BITMASK: _bits(present)}
    forms |= {_GAPS4: _nibbles(_escaped(gaps, 15)), _GAPS8: _escaped(gaps, 255)}
    kind, body = min(forms.items(), key=lambda item: len(item[1]))
    head = torch.tensor([kind, tensor.dim(), *tensor.shape], dtype=torch.int64).view(torch.uint8)
    return torch.cat([head, body]) if len(body) < saved else None


def _dense(values: Tensor, places: Tensor) -> Tensor:
    kind, dims = places[:16].clone().view(torch.int64).tolist()
    head = 16 + 8 * dims
    shape = places[16:head].clone().view(torch.int64).tolist()
    body = places[head:]
    whole = torch.zeros(shape, dtype=values.dtype).flatten()
    if kind == _BITMASK:
        at = _unbits(body)[: whole.numel()].nonzero().flatten()
    elif kind in (_GAPS4, _GAPS8):
        steps = _unnibbled(body) if kind == _GAPS4 else body
        at = _ends(steps, 15 if kind == _GAPS4 else 255)[: len(values)]
    else:
        raise ValueError(f"unknown form of sparse tensor {kind}, know 1, 4 and 8")
    whole[at] = values
    return whole.view(shape)


def _bits(present: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(present.to(torch.uint8), (0, -len(present) % 8))
    weights = 2 ** torch.arange(8, dtype=torch.uint8)
    return (padded.view(-1, 8) * weights).sum(1, dtype=torch.uint8)


def _unbits(body: Tensor) -> Tensor:
    return (body[:, None] >> torch.arange(8, dtype=torch.uint8)).bitwise_and(1).flatten()


def _escaped(gaps: Tensor, top: int) -> Tensor:
    """Return gaps as bytes below `top`; each `top` in front of one adds as much to it."""
    escapes = gaps // top
    ends = (escapes + 1).cumsum(0) - 1
    body = torch.full((int(ends[-1]) + 1 if len(ends) else 0,), top, dtype=torch.uint8)
    body[ends] = (gaps % top).to(torch.uint8)
    return body


def _ends(steps: Tensor, top: int) -> Tensor:
    """Return the places that escaped gaps lead to."""
    final = steps < top
    at = torch.where(final, steps.long() + 1, top).cumsum(0) - 1
    return at[final]


def _nibbles(body: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(body, (0, len(body) % 2)).view(-1, 2)
    return padded[:, 0] | (padded[:, 1] << 4)


def _unnibbled(body: Tensor) -> Tensor:
    return torch.stack([body & 15, body >> 4], 1).flatten()
