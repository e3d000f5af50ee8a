"""Families: channels of different layers that can only be removed together, in units."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Side = Literal["out", "in", "both"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One side of a layer, with the unit to which each of its channels belongs."""

    name: str
    module: nn.Module
    side: Side
    cut: Callable[[list[int]], object]
    """Removes the given channels of this side from the layer."""
    unit: Tensor
    """Unit of each channel, (channels,) int64; -1 where it belongs to no unit."""

    def channels(self, units: Sequence[int]) -> list[int]:
        """Return this side's channels that belong to `units`."""
        chosen = torch.isin(self.unit, torch.tensor(list(units), dtype=torch.int64))
        return [int(i) for i in chosen.nonzero().flatten()]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One way to see a set of coupled sides as equal units of which some can be removed."""

    name: str
    members: tuple[Member, ...]
    units: int
    size: int
    """Channels of the first member in one unit."""
    counts: int = 0
    """Old number of heads; integer attributes that equal it are updated. 0 updates none."""
    width: int = 0
    """Old width; integer attributes that equal it are updated. 0 updates none."""


def keep(units: int, size: int, ratio: float, round_to: int) -> int:
    """Return how many of `units` stay, so that units x size is a multiple of `round_to`.

    The nearest such number to (1 - ratio) x units, at least one multiple; all of them where
    there is no smaller multiple.
    """
    step = round_to // math.gcd(size, round_to)
    nearest = int(units * (1 - ratio) / step + 0.5) * step
    return min(units, max(nearest, step))


def weakest(family: Family, count: int) -> tuple[int, ...]:
    """Return the `count` units whose weights have the smallest L2 norm, ascending.

    The norm runs over the weights of all members, a norm layer's scale included (Fang et al.
    2023, DepGraph, section 3.3, without its learned shrinkage).
    """
    total = torch.zeros(family.units, dtype=torch.float64)
    for member in family.members:
        squares = _squares(member)
        if squares is not None:
            used = member.unit >= 0
            total.index_add_(0, member.unit[used], squares[used])
    order = torch.sort(total, stable=True).indices[:count]
    return tuple(sorted(int(i) for i in order))


def _squares(member: Member) -> Tensor | None:
    """Return the squared L2 norm of each channel's weights; None where it has none."""
    module = member.module
    if isinstance(module, nn.MultiheadAttention):
        rows = module.in_proj_weight.detach().double().square().sum(1)
        columns = module.out_proj.weight.detach().double().square().sum(0)
        return rows.view(3, -1).sum(0) + columns
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, nn.PReLU):
        return None
    squares = weight.detach().double().square()
    if weight.dim() == 1:
        return squares
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    axis = int((member.side == "in") != transposed)
    norms = squares.sum([d for d in range(squares.dim()) if d != axis])
    # a grouped convolution stores one group's channels of an axis: they serve every group alike
    return norms.repeat(member.unit.numel() // norms.numel())
