"""The units of what linear layers write and others read: neurons, heads, groups of heads."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from spaces.modules.structure.families import Family, Member, Side
from spaces.modules.structure.flow import Layer, Stream, gradients
from spaces.modules.structure.matrices import cutter, inputs

_REPEATS = ("group", "rep")
"""Parts of attribute names that tell how many heads share one from how many heads there are."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Division:
    """Every channel's unit, -1 where all units need it."""

    units: int
    written: tuple[Tensor, ...]
    read: tuple[Tensor, ...]


def ways(stream: Stream) -> tuple[Family, ...]:
    """Return the ways to divide what flows between linear layers, the likeliest first.

    Units are as small as they can be so that nothing in one depends on another: neurons where
    functions work on each channel alone, heads of an attention, and with grouped queries a head
    of keys and values with all the heads that ask it. All ways are the same units; they differ in
    the attributes that are updated. Empty where there is no such division.
    """
    division = _divided(stream)
    if division is None:
        return ()
    family = _family(stream, division)
    if family.size == 1:
        return family, dataclasses.replace(family, widths=_widths(stream, division, ()))
    return tuple(_attributes(family, stream, division))


def _divided(stream: Stream) -> _Division | None:
    """Return the finest division in which each unit is a block of what every reader reads."""
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
    """Return the block that each written channel arrives at, -1 for all of them.

    None where a channel arrives at several blocks or at none. Asked is, for each binary digit of
    the blocks' numbers, who arrives at blocks with a zero there, and who at blocks with a one.
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
    found: Sequence[Tensor | None], owners: Sequence[int], codes: Sequence[Tensor]
) -> list[Tensor]:
    """Return of each writer's channels whether they have a gradient in any call."""
    arrived = [torch.zeros_like(code, dtype=torch.bool) for code in codes]
    for gradient, owner in zip(found, owners, strict=True):
        if gradient is not None:
            arrived[owner] |= gradient.flatten(0, -2).ne(0).any(0).cpu()
    return arrived


def _even(codes: Sequence[Tensor], units: int) -> bool:
    """Whether all units have as many channels of each layer, and any at all."""
    counts = [torch.bincount(code[code >= 0], minlength=units) for code in codes]
    equal = all(len(n) == units and bool((n == n[0]).all()) for n in counts)
    return equal and any(bool((n > 0).all()) for n in counts)


def _family(stream: Stream, division: _Division) -> Family:
    """Return the units as a family that updates no attributes."""
    members = [
        *_members("out", stream.writers, division.written),
        *_members("in", stream.readers, division.read),
    ]
    size = len(division.read[0]) // division.units
    return Family(name=members[0].name, members=tuple(members), units=division.units, size=size)


def _members(side: Side, layers: Sequence[Layer], units: Sequence[Tensor]) -> Iterator[Member]:
    """Yield one side of the layers whose channels are not all shared."""
    for layer, unit in zip(layers, units, strict=True):
        if bool((unit >= 0).any()):
            module = layer.module
            yield Member(
                name=layer.name, module=module, side=side, cut=cutter(module, side), unit=unit
            )


def _attributes(family: Family, stream: Stream, division: _Division) -> Iterator[Family]:
    """Yield the family with each choice of attributes to update, the commonest first."""
    lengths = _lengths(division)
    heads = tuple({division.units, *(division.units * family.size // n for n in lengths)})
    widths = _widths(stream, division, lengths)
    for kept in (_REPEATS, ()) if len(heads) > 1 else ((),):
        for counts, old in ((heads, widths), (heads, ()), ((), widths), ((), ())):
            yield dataclasses.replace(family, counts=counts, widths=old, kept=kept)


def _lengths(division: _Division) -> tuple[int, ...]:
    """Return what may be the channels of one head: fewer than a unit's if queries are grouped.

    A unit has them once in a layer of keys, and twice more than its queries where one layer writes
    queries, keys and values.
    """
    block = len(division.read[0]) // division.units
    counts = [int((unit == 0).sum()) for unit in division.written]
    found = [*counts, *((n - block) // 2 for n in counts if (n - block) % 2 == 0)]
    return tuple(sorted({n for n in found if n > 0 and block % n == 0}))


def _widths(stream: Stream, division: _Division, lengths: Sequence[int]) -> tuple[int, ...]:
    """Return the widths that shrink with the number of units."""
    channels = [*(len(unit) for unit in division.read)]
    channels += [len(unit) for unit in division.written if bool((unit >= 0).all())]
    return tuple(sorted({*channels, *(division.units * n for n in lengths)}))
