"""Optimal brain surgery on whole units: which go first, and what the model misses without them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spaces.modules.structure import Family, matrices, readers

DAMPING = 0.01
"""Ridge added to the moments, as a share of their mean diagonal."""
RIDGE = 1e-12
AT_ONCE = 64
"""Units of which one goes at a time; of n times as many, n go at a time."""

Damage = Callable[[Mapping[str, Tensor]], float]
"""Says how far the model's outputs are from the whole model's with these matrices in its layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """The units of a family in the order in which they go, and the damage done by then."""

    order: tuple[int, ...]
    measured: tuple[tuple[int, float], ...]
    """(units gone, damage), ascending, from (0, 0) on; empty if none was measured."""

    def damage(self, gone: int) -> float:
        """Return the damage when `gone` units are gone; it never falls with their number.

        Up to the first measurement it grows with the square of their number, between two with a
        power of it; infinity beyond the last.
        """
        if gone == 0:
            return 0.0
        before, low = 0, 0.0
        for at, found in self.measured[1:]:
            high = max(low, found)
            if gone <= at:
                return _between(gone, (before, low), (at, high))
            before, low = at, high
        return math.inf


def _between(gone: int, first: tuple[int, float], second: tuple[int, float]) -> float:
    """Return the damage from one measurement (units gone, damage) to the next."""
    (a, low), (b, high) = first, second
    if a == 0:
        # outputs move with what they miss, and a divergence of them with its square
        return high * (gone / b) ** 2
    if low == 0:
        return high * (gone - a) / (b - a)
    return low * math.pow(high / low, math.log(gone / a) / math.log(b / a))


@dataclasses.dataclass(kw_only=True, eq=False)
class _State:
    """Columns of one reader while units go: their weights, refitted, and their inverse moments."""

    name: str
    matrix: Tensor
    """(outputs, columns); the constant's column is what is added to the bias, but in the first."""
    inverse: Tensor
    power: float
    """Mean squared output of the whole layer."""
    units: Tensor
    """The units that lie in these columns, (units,)."""
    blocks: Tensor
    """Columns of each of them, (units, columns of one)."""
    columns: Tensor
    """Columns of the whole matrix that these are, (columns,)."""


def curve(
    family: Family,
    readers: Mapping[str, readers.Reader],
    damage: Damage | None = None,
    marks: Sequence[int] = (),
) -> Curve | None:
    """Return what removing the units of `family` does to its readers; None where none is seen.

    The unit goes whose loss, after the best refit of what stays, changes the readers' outputs
    least, relative to their size: the optimal brain surgeon on groups of columns (Hassibi and
    Stork 1993; Kurtic et al. 2023, ZipLM, section 3.1). When as many units are gone as `marks`
    say, the `damage` to the model's outputs is measured.
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
    left = torch.ones(family.units, dtype=torch.bool, device=device)
    order: list[int] = []
    measured = [(0, 0.0)] if marks else []
    at_once = max(1, family.units // AT_ONCE)
    last = max(marks, default=0) if damage else family.units - 1
    while len(order) < last:
        cost = torch.zeros(family.units, dtype=torch.float64, device=device)
        for state in states:
            cost.index_add_(0, state.units, _costs(state))
        cost[~left] = torch.inf
        until = min([m for m in marks if m > len(order)], default=last)
        going = torch.sort(cost, stable=True).indices[: min(at_once, until - len(order))]
        order += going.tolist()
        left[going] = False
        for state in states:
            _eliminate(state, torch.isin(state.units, going).nonzero().flatten())
        if damage is not None and len(order) in marks:
            measured.append((len(order), damage(_matrices(states))))
    rest = left.nonzero().flatten().tolist()
    return Curve(order=(*order, *rest), measured=tuple(measured))


def _states(name: str, unit: Tensor, units: int, reader: readers.Reader) -> list[_State]:
    """Return a reader's states, one for each part of its columns.

    None where its channels are not divided evenly among the units, or a unit lies in two parts.
    """
    unit = unit.to(matrices.weight(reader.module).device)
    channels = [(unit == u).nonzero().flatten() for u in range(units)]
    if len({len(c) for c in channels}) != 1 or not len(channels[0]):
        return []
    columns = torch.stack([reader.columns(c) for c in channels])
    whole, states = reader.matrix, []
    for number, (part, moments) in enumerate(zip(reader.parts, reader.moments, strict=True)):
        inside = torch.isin(columns, part)
        if bool((inside.any(1) != inside.all(1)).any()):
            return []
        scale = float(moments.diagonal().mean())
        if not (reader.power > 0 and scale > 0):
            return []
        own = inside.all(1).nonzero().flatten()
        damped = moments.clone()
        damped.diagonal().add_(DAMPING * scale)
        matrix = whole[:, part]
        if number > 0 and matrices.bias(reader.module) is not None:
            matrix[:, -1] = 0
        states.append(
            _State(
                name=name,
                # where outputs are many, half the bytes are half the time
                matrix=matrix if len(reader.parts) == 1 else matrix.float(),
                inverse=torch.linalg.inv(damped),
                power=reader.power,
                units=own,
                blocks=torch.searchsorted(part, columns[own]),
                columns=part,
            )
        )
    return states


def _matrices(states: Sequence[_State]) -> dict[str, Tensor]:
    """Return the readers' whole matrices."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(state.name for state in states):
        own = [state for state in states if state.name == name]
        if len(own) == 1:
            found[name] = own[0].matrix
            continue
        width = 1 + max(int(state.columns[-1]) for state in own)
        matrix = own[0].matrix.new_zeros(len(own[0].matrix), width, dtype=torch.float64)
        for state in own:
            # of columns, only the constant's is in several parts: there, they add up
            matrix.index_add_(1, state.columns, state.matrix.double())
        found[name] = matrix
    return found


def _costs(state: _State) -> Tensor:
    """Return the share of the outputs' power that is lost if each unit went alone, (units,)."""
    b = state.blocks
    if b.shape[1] == 1:  # a neuron's: thousands of systems with one unknown
        pivots = state.inverse.diagonal()[b[:, 0]]
        energy = state.matrix.square().sum(0)[b[:, 0]].double()
        return energy / (pivots + RIDGE * pivots.amax()) / state.power
    corners = state.inverse[b[:, :, None], b[:, None, :]]  # (units, columns, columns)
    weights = state.matrix[:, b].double().permute(1, 2, 0)  # (units, columns, outputs)
    # the corners of units that are gone are zero: a trace of a ridge keeps them invertible
    ridge = RIDGE * corners.diagonal(dim1=1, dim2=2).amax()
    corners = corners + ridge * torch.eye(b.shape[1], dtype=corners.dtype, device=b.device)
    lost: Tensor = (weights * torch.linalg.solve(corners, weights)).sum((1, 2))
    return lost / state.power


def _eliminate(state: _State, units: Tensor) -> None:
    """Take the columns of `units`, numbers in the state, out and refit the other columns."""
    if not len(units):
        return
    gone = state.blocks[units].flatten()
    corner = state.inverse[gone][:, gone]
    across = torch.linalg.solve(corner, state.inverse[gone])  # (gone, columns)
    # a product that is subtracted as it is made takes a quarter of the time
    state.matrix.addmm_(state.matrix[:, gone], across.to(state.matrix.dtype), alpha=-1)
    state.inverse.addmm_(state.inverse[:, gone], across, alpha=-1)
    state.matrix[:, gone] = 0
    state.inverse[gone] = 0
    state.inverse[:, gone] = 0
