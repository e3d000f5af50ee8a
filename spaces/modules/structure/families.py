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
    """One side of a layer, and the unit of each of its channels."""

    name: str
    module: nn.Module
    side: Side
    cut: Callable[[list[int]], object]
    """Removes the given channels of this side from the layer."""
    unit: Tensor
    """Unit of each channel, (channels,) int64; -1 for channels that belong to no unit."""

    @property
    def run(self) -> int:
        """Adjacent channels of each unit, if all units have as many and they are adjacent; else 1.

        They are the channels of a head, or the pixels of a channel that was flattened.
        """
        _, lengths = torch.unique_consecutive(self.unit, return_counts=True)
        return int(lengths[0]) if bool((lengths == lengths[0]).all()) else 1

    def channels(self, units: Sequence[int]) -> list[int]:
        """Return this side's channels that belong to `units`."""
        chosen = torch.isin(self.unit, torch.tensor(list(units), dtype=torch.int64))
        return [int(i) for i in chosen.nonzero().flatten()]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One way to divide a set of coupled sides into equal units, some of which can be removed."""

    name: str
    members: tuple[Member, ...]
    units: int
    size: int
    """Channels of the first member in one unit."""
    counts: tuple[int, ...] = ()
    """Numbers of heads before the cut; integer attributes equal to one of them are updated."""
    widths: tuple[int, ...] = ()
    """Widths before the cut; integer attributes equal to one of them are updated."""
    unchanged: tuple[str, ...] = ()
    """Parts of names of attributes that are not updated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coupled:
    """A set of coupled sides, with the ways to divide it into units, the most likely first."""

    name: str
    """Name of the layer from which the search for coupled layers started."""
    ways: tuple[Family, ...]
    reason: str = ""
    """The reason why there are no ways, as part of a sentence."""


def keep(units: int, size: int, ratio: float, round_to: int) -> int:
    """Return the number of units to keep, such that units x size is a multiple of `round_to`.

    It is the number nearest to (1 - ratio) x units, at least one multiple; all units if there is
    no smaller multiple.
    """
    step = round_to // math.gcd(size, round_to)
    nearest = int(units * (1 - ratio) / step + 0.5) * step
    return min(units, max(nearest, step))
