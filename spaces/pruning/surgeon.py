"""Order the units of a family for removal by optimal brain surgery, and measure the damage."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from spaces.modules.structure import Family, matrices, readers

DAMPING = 0.01
"""Ridge added to the moments, as a share of their mean diagonal."""
RIDGE = 1e-12
"""Ridge added to singular systems, as a share of their largest diagonal entry."""
WIDE = 1024
"""Largest number of columns whose weights are computed in double precision."""
CROWDED = 0.75
"""Share of remaining columns below which the others are taken out of a state."""
AT_ONCE = 64
"""A family of up to this many units loses one at a time; of n times as many, n at a time, and 2 n
from n = 4 on."""

T = TypeVar("T")
Damage = Callable[[Mapping[str, Tensor]], float]
"""Returns the distance of the model's outputs from the original's, given matrices for layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The units of a family in the order of their removal, and the damage that it does."""

    order: tuple[int, ...]
    measured: tuple[tuple[int, float], ...]
    """(removed units, damage), ascending from (0, 0); empty if nothing was measured."""

    def damage(self, removed: int) -> float:
        """Return the damage of removing `removed` units; it never falls with their number.

        Up to the first measurement it grows with the square of the number, between two measurements
        with a power of it; beyond the last it is infinite.
        """
        if removed == 0:
            return 0.0
        before, low = 0, 0.0
        for count, measurement in self.measured[1:]:
            high = max(low, measurement)
            if removed <= count:
                return _between(removed, (before, low), (count, high))
            before, low = count, high
        return math.inf


def _between(removed: int, first: tuple[int, float], second: tuple[int, float]) -> float:
    """Interpolate the damage between two measurements (removed units, damage)."""
    (a, low), (b, high) = first, second
    if a == 0:
        # outputs change in proportion to the missing part, and their divergence with its square
        return high * (removed / b) ** 2
    if low == 0:
        return high * (removed - a) / (b - a)
    return low * math.pow(high / low, math.log(removed / a) / math.log(b / a))


@dataclasses.dataclass(kw_only=True, eq=False)
class _State:
    """Columns of one reader during the removal: their refitted weights and inverse moments."""

    name: str
    matrix: Tensor
    """(outputs, columns). The constant's column is the bias in the first part of a reader, and an
    addition to it in the others."""
    inverse: Tensor
    """Rows of the inverse of the damped moments, of the columns in `blocks`: (units x columns of a
    unit, columns)."""
    power: float
    """Mean squared norm of the whole layer's output."""
    units: Tensor
    """The units that lie in these columns, (units,)."""
    blocks: Tensor
    """The columns of each of these units, (units, columns of a unit)."""
    columns: Tensor
    """Positions of these columns in the whole matrix, (columns,)."""
    width: int
    """Columns of the whole matrix."""


def curve(
    family: Family,
    readers: Mapping[str, readers.Reader],
    damage: Damage | None = None,
    marks: Sequence[int] = (),
) -> Curve | None:
    """Return the order in which the units of `family` are removed; None if no reader was observed.

    The `damage` to the model's outputs is measured whenever the number of removed units is in
    `marks`.
    """
    found = order(family, readers, damage, marks)
    if found is None:
        return None
    units, measured = found
    return Curve(order=units, measured=((0, 0.0), *measured) if marks else ())


def order(
    family: Family,
    readers: Mapping[str, readers.Reader],
    look: Callable[[Mapping[str, Tensor]], T] | None = None,
    marks: Sequence[int] = (),
    rounds: int | None = None,
) -> tuple[tuple[int, ...], list[tuple[int, T]]] | None:
    """Return the order in which units are removed, and what `look` returns of layers' matrices.

    The next unit is the one whose removal, after the best refit of the others, changes the readers'
    outputs least, relative to their size: the optimal brain surgeon on groups of columns (Hassibi
    and Stork 1993; Kurtic et al. 2023, ZipLM, section 3.1). `look` is called whenever the number of
    removed units is in `marks`. Units are removed in about `rounds` rounds, by default in so many
    as AT_ONCE says. None if no reader was observed.
    """
    states = [
        state
        for member in family.members
        if member.side == "in" and member.name in readers
        for state in _states(member.name, member.unit, family.units, readers[member.name])
    ]
    if not states:
        return None
    device = states[0].inverse.device
    remaining = torch.ones(family.units, dtype=torch.bool, device=device)
    removed: list[int] = []
    seen: list[tuple[int, T]] = []
    share = family.units // AT_ONCE
    at_once = max(1, share if share < 4 else 2 * share)
    if rounds is not None:
        at_once = max(at_once, -(-family.units // rounds))
    last = max(marks, default=0) if look else family.units - 1
    while len(removed) < last:
        cost = torch.zeros(family.units, dtype=torch.float64, device=device)
        for state in states:
            cost.index_add_(0, state.units, _costs(state))
        cost[~remaining] = torch.inf
        until = min([m for m in marks if m > len(removed)], default=last)
        chosen = torch.sort(cost, stable=True).indices[: min(at_once, until - len(removed))]
        removed += chosen.tolist()
        remaining[chosen] = False
        for state in states:
            _eliminate(state, torch.isin(state.units, chosen).nonzero().flatten())
            _compact(state, remaining)
        if look is not None and len(removed) in marks:
            seen.append((len(removed), look(_matrices(states))))
    return (*removed, *remaining.nonzero().flatten().tolist()), seen


def _states(name: str, unit: Tensor, units: int, reader: readers.Reader) -> list[_State]:
    """Return a reader's states, one for each part of its columns.

    Empty if its channels are not divided evenly among the units, or if a unit lies in two parts.
    """
    unit = unit.to(matrices.weight(reader.module).device)
    belonging = (unit >= 0).nonzero().flatten()
    counts = torch.bincount(unit[belonging], minlength=units)
    if not int(counts[0]) or bool((counts != counts[0]).any()):
        return []
    channels = belonging[torch.argsort(unit[belonging], stable=True)]
    columns = reader.columns(channels).view(units, -1)
    whole, states = reader.matrix, []
    for number, (part, moments) in enumerate(zip(reader.parts, reader.moments, strict=True)):
        inside = torch.isin(columns, part)
        if bool((inside.any(1) != inside.all(1)).any()):
            return []
        scale = float(moments.diagonal().mean())
        if not (0 < reader.power < math.inf and 0 < scale < math.inf):
            return []
        complete = inside.all(1).nonzero().flatten()
        blocks = torch.searchsorted(part, columns[complete])
        matrix = whole[:, part]
        if number > 0 and matrices.bias(reader.module) is not None:
            matrix[:, -1] = 0
        states.append(
            _State(
                name=name,
                # in wide layers, half the bytes take half the time
                matrix=matrix if len(part) <= WIDE else matrix.float(),
                inverse=_inverse(reader, number)[blocks.flatten()],
                power=reader.power,
                units=complete,
                blocks=blocks,
                columns=part,
                width=whole.shape[1],
            )
        )
    return states


def _inverse(reader: readers.Reader, number: int) -> Tensor:
    """Return the inverse of the damped moments of a part, which several families may need."""
    if number not in reader.inverses:
        damped = reader.moments[number].clone()
        scarcity = readers.scarcity(len(damped), reader.places)
        damped.diagonal().add_(DAMPING * scarcity * damped.diagonal().mean())
        # by Cholesky's factor: half the work of a general inversion
        factor, failed = torch.linalg.cholesky_ex(damped)
        reader.inverses[number] = (
            torch.linalg.inv(damped) if int(failed) else torch.cholesky_inverse(factor)
        )
    return reader.inverses[number]


def _matrices(states: Sequence[_State]) -> dict[str, Tensor]:
    """Return the readers' whole matrices."""
    joined: dict[str, Tensor] = {}
    for name in dict.fromkeys(state.name for state in states):
        parts = [state for state in states if state.name == name]
        width = max(state.width for state in parts)
        matrix = parts[0].matrix.new_zeros(len(parts[0].matrix), width, dtype=torch.float64)
        for state in parts:
            # only the constant's column is in several parts, which are added
            matrix.index_add_(1, state.columns, state.matrix.double())
        joined[name] = matrix
    return joined


def _compact(state: _State, remaining: Tensor) -> None:
    """Take removed columns out of a state if they are many; they are zero."""
    alive = remaining[state.units]
    if bool(alive.all()) or not len(alive):
        return
    gone = state.blocks[~alive].flatten()
    if len(gone) < (1 - CROWDED) * len(state.columns):
        return
    mask = torch.ones(len(state.columns), dtype=torch.bool, device=gone.device)
    mask[gone] = False
    positions = mask.long().cumsum(0) - 1
    state.matrix = state.matrix[:, mask]
    state.inverse = state.inverse[_rows(state)[alive].flatten()][:, mask]
    state.units = state.units[alive]
    state.blocks = positions[state.blocks[alive]]
    state.columns = state.columns[mask]


def _rows(state: _State) -> Tensor:
    """Return the rows of the inverse that belong to each unit, (units, columns of a unit)."""
    count = state.blocks.numel()
    return torch.arange(count, device=state.blocks.device).view(state.blocks.shape)


def _costs(state: _State) -> Tensor:
    """Return the share of the outputs' power lost by removing each unit alone, (units,)."""
    b = state.blocks
    if not len(b):  # all units of this part are gone
        return state.inverse.new_zeros(0)
    if b.shape[1] == 1:  # neurons are thousands of systems with one unknown
        pivots = state.inverse.gather(1, b)[:, 0]
        energy = state.matrix.square().sum(0)[b[:, 0]].double()
        return energy / (pivots + RIDGE * pivots.amax()) / state.power
    # (units, columns, columns)
    corners = state.inverse[_rows(state)[:, :, None], b[:, None, :]]
    weights = state.matrix[:, b].permute(1, 2, 0)  # (units, columns, outputs)
    energy = (weights @ weights.mT).double()
    # the corners of removed units are zero: the ridge keeps them invertible
    ridge = RIDGE * corners.diagonal(dim1=1, dim2=2).amax()
    corners = corners + ridge * torch.eye(b.shape[1], dtype=corners.dtype, device=b.device)
    lost: Tensor = torch.linalg.solve(corners, energy).diagonal(dim1=1, dim2=2).sum(1)
    return lost / state.power


def _eliminate(state: _State, units: Tensor) -> None:
    """Remove the columns of `units`, positions in the state, and refit the other columns."""
    if not len(units):
        return
    removed = state.blocks[units].flatten()
    rows = _rows(state)[units].flatten()
    across = torch.linalg.solve(state.inverse[rows][:, removed], state.inverse[rows])
    # subtracting the product in place takes a quarter of the time
    state.matrix.addmm_(state.matrix[:, removed], across.to(state.matrix.dtype), alpha=-1)
    state.inverse.addmm_(state.inverse[:, removed], across, alpha=-1)
    state.matrix[:, removed] = 0
    state.inverse[rows] = 0
    state.inverse[:, removed] = 0
