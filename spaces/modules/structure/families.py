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
    counts: tuple[int, ...] = ()
    """Old numbers of heads; integer attributes that equal one are updated."""
    widths: tuple[int, ...] = ()
    """Old widths; integer attributes that equal one are updated."""
    kept: tuple[str, ...] = ()
    """Parts of names of attributes that stay as they are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coupled:
    """A set of coupled sides, with the ways to divide it into units, the likeliest first."""

    name: str
    """Name of the layer that the search for coupled layers started from."""
    ways: tuple[Family, ...]
    reason: str = ""
    """Why there are no ways, as a part of a sentence."""


def keep(units: int, size: int, ratio: float, round_to: int) -> int:
    """Return how many of `units` stay, so that units x size is a multiple of `round_to`.

    The nearest such number to (1 - ratio) x units, at least one multiple; all of them where
    there is no smaller multiple.
    """
    step = round_to // math.gcd(size, round_to)
    nearest = int(units * (1 - ratio) / step + 0.5) * step
    return min(units, max(nearest, step))
