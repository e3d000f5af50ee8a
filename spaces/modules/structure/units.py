"""Divide the channels between linear layers into units: neurons, heads, groups of heads."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from spaces.modules.structure.families import Family, Member, Side
from spaces.modules.structure.flow import Layer, Stream, gradients
from spaces.modules.structure.matrices import cutter, inputs

_REPEATS = ("group", "rep")
"""Parts of attribute names that distinguish heads per group from the number of heads."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Division:
    """The unit of every channel, -1 for channels that all units need."""

    units: int
    written: tuple[Tensor, ...]
    read: tuple[Tensor, ...]


def ways(stream: Stream) -> tuple[Family, ...]:
    """Return the ways to divide a stream between linear layers into units, the most likely first.

    Units are as small as possible such that none depends on another: neurons if functions act on
    each channel separately, heads of an attention, and with grouped queries a head of keys and
    values with all query heads that use it. All ways have the same units; they differ in the
    attributes that are updated. Empty if there is no such division.
    """
    division = _divided(stream)
    if division is None:
        return ()
    family = _family(stream, division)
    if family.size == 1:
        return family, dataclasses.replace(family, widths=_widths(stream, division, ()))
    return tuple(_attributes(family, stream, division))


def _divided(stream: Stream) -> _Division | None:
    """Return the finest division in which each unit is a block of every reader's channels."""
    columns = [inputs(reader.module) for reader in stream.readers]
    common = math.gcd(*columns)
    for units in range(common, 1, -1):
        if common % units == 0:
            blocks = [torch.arange(width) * units // width for width in columns]
            written = _written(stream, blocks, units)
            if written is not None:
                return _Division(units=units, written=tuple(written), read=tuple(blocks))
    return None


def _written(stream: Stream, blocks: Sequence[Tensor], units: int) -> list[Tensor] | None:
    """Return the block that each written channel reaches, -1 if it reaches all of them.

    None if a channel reaches several blocks or none. For each binary digit of the blocks' numbers,
    gradients show the channels that reach blocks with a zero, and those that reach blocks with a
    one.
    """
    reads, leaves = stream.read, stream.written
    owners = [number for number, writer in enumerate(stream.writers) for _ in writer.written]
    calls = [len(reader.read) for reader in stream.readers]
    codes = [torch.zeros(_channels(writer), dtype=torch.int64) for writer in stream.writers]
    shared: list[Tensor] = []
    for digit in range((units - 1).bit_length()):
        ones = [b >> digit & 1 == 1 for b, n in zip(blocks, calls, strict=True) for _ in range(n)]
        zero, one = (
            _arrives(gradients(reads, leaves, masks), owners, codes)
            for masks in ([~m for m in ones], ones)
        )
        both = [a & b for a, b in zip(zero, one, strict=True)]
        shared = shared or both
        for number, code in enumerate(codes):
            nowhere = ~(zero[number] | one[number])
            if nowhere.any() or not torch.equal(shared[number], both[number]):
                return None
            code += one[number].long() << digit
    for code, everywhere in zip(codes, shared, strict=True):
        code[everywhere] = -1
    return codes if _even(codes, units) else None


def _channels(writer: Layer) -> int:
    return writer.written[0].shape[-1]


def _arrives(
    grads: Sequence[Tensor | None], owners: Sequence[int], codes: Sequence[Tensor]
) -> list[Tensor]:
    """Return a mask of each writer's channels that have a gradient in any call."""
    arrived = [torch.zeros_like(code, dtype=torch.bool) for code in codes]
    for gradient, owner in zip(grads, owners, strict=True):
        if gradient is not None:
            arrived[owner] |= gradient.flatten(0, -2).ne(0).any(0).cpu()
    return arrived


def _even(codes: Sequence[Tensor], units: int) -> bool:
    """Return True if all units have equally many channels of each layer, and some of one."""
    counts = [torch.bincount(code[code >= 0], minlength=units) for code in codes]
    equal = all(len(n) == units and bool((n == n[0]).all()) for n in counts)
    return equal and any(bool((n > 0).all()) for n in counts)


def _family(stream: Stream, division: _Division) -> Family:
    """Return a family with these units that updates no attributes."""
    members = [
        *_members("out", stream.writers, division.written),
        *_members("in", stream.readers, division.read),
    ]
    size = len(division.read[0]) // division.units
    return Family(name=members[0].name, members=tuple(members), units=division.units, size=size)


def _members(side: Side, layers: Sequence[Layer], units: Sequence[Tensor]) -> Iterator[Member]:
    """Yield one side of each layer whose channels are not all shared."""
    for layer, unit in zip(layers, units, strict=True):
        if bool((unit >= 0).any()):
            module = layer.module
            yield Member(
                name=layer.name, module=module, side=side, cut=cutter(module, side), unit=unit
            )


def _attributes(family: Family, stream: Stream, division: _Division) -> Iterator[Family]:
    """Yield the family with each choice of attributes to update, the most common first."""
    lengths = _lengths(division)
    heads = tuple({division.units, *(division.units * family.size // n for n in lengths)})
    widths = _widths(stream, division, lengths)
    for unchanged in (_REPEATS, ()) if len(heads) > 1 else ((),):
        for counts, old in ((heads, widths), (heads, ()), ((), widths), ((), ())):
            yield dataclasses.replace(family, counts=counts, widths=old, unchanged=unchanged)


def _lengths(division: _Division) -> tuple[int, ...]:
    """Return the possible numbers of channels of a head; with grouped queries a unit has more.

    A unit has one head in a layer of keys, and two heads besides its queries in a layer that writes
    queries, keys and values.
    """
    block = len(division.read[0]) // division.units
    counts = [int((unit == 0).sum()) for unit in division.written]
    candidates = [*counts, *((n - block) // 2 for n in counts if (n - block) % 2 == 0)]
    return tuple(sorted({n for n in candidates if n > 0 and block % n == 0}))


def _widths(stream: Stream, division: _Division, lengths: Sequence[int]) -> tuple[int, ...]:
    """Return the widths that are proportional to the number of units."""
    channels = [*(len(unit) for unit in division.read)]
    channels += [len(unit) for unit in division.written if bool((unit >= 0).all())]
    return tuple(sorted({*channels, *(division.units * n for n in lengths)}))
