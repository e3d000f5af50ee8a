"""How many units each family keeps: operations are saved where it does the least damage."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from spaces.modules import Convolution, call
from spaces.modules.structure import Family, keep, matrices
from spaces.pruning.surgeon import Curve

SMALLEST = 0.125
"""Share of its units that a family keeps at least."""
MARKS = 2
"""Widths of a family at which the damage is measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """Operations of a layer, and the families its outputs and inputs belong to, if any."""

    operations: float
    families: tuple[int, ...]


def allocate(
    families: Sequence[Family],
    curves: Sequence[Curve | None],
    operations: Mapping[str, float],
    ratios: Sequence[float],
    round_to: int,
) -> list[int]:
    """Return the units that each family keeps.

    Together they need about the operations of a model of which every family loses its share of
    `ratios`, and do little damage: widths fall step by step, always where the damage for each
    saved operation is smallest. Families without a curve keep the number by their ratio. A ratio
    below zero is that of a family that has lost more than its share already.
    """
    pairs = list(zip(families, ratios, strict=True))
    uniform = [keep(f.units, f.size, max(r, 0.0), round_to) for f, r in pairs]
    layers = list(_layers(families, operations))
    budget = _total(layers, families, [f.units * (1 - r) for f, r in pairs])
    kept = [f.units if c else u for f, c, u in zip(families, curves, uniform, strict=True)]
    while (now := _total(layers, families, kept)) > budget:
        step = min(_steps(layers, families, curves, kept, round_to, budget), default=None)
        if step is None:
            break
        _, index, left = step
        then = [*kept]
        then[index] = left
        if budget - _total(layers, families, then) > now - budget:
            break  # the last step would take it further from the budget than it is
        kept = then
    return kept


def count(model: nn.Module, example: object, families: Sequence[Family]) -> dict[str, float]:
    """Return the multiplications of each layer of `families` in one pass over `example`."""
    found: dict[str, float] = {}
    layers = {m.name: m.module for family in families for m in family.members}
    hooks = [
        module.register_forward_hook(_counter(name, found))
        for name, module in layers.items()
        if matrices.linear(module)
        or isinstance(module, Convolution | nn.Linear | nn.MultiheadAttention)
    ]
    try:
        with torch.no_grad():
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _counter(name: str, found: dict[str, float]) -> Callable[..., None]:
    def hook(module: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        channels = tensor.shape[1 if isinstance(module, Convolution) else -1]
        weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
        found[name] = found.get(name, 0.0) + tensor.numel() / channels * weights

    return hook


def _layers(families: Sequence[Family], operations: Mapping[str, float]) -> Iterator[_Layer]:
    """Yield the layers with the families that their width and their depth belong to."""
    member_of: dict[str, list[int]] = {}
    for index, family in enumerate(families):
        for member in family.members:
            known = member_of.setdefault(member.name, [])
            # a kernel that serves one group of channels is as deep as before
            if index not in known or getattr(member.module, "groups", 1) == 1:
                known.append(index)
    for name, indices in member_of.items():
        if name in operations:
            yield _Layer(operations=operations[name], families=tuple(indices))


def _total(layers: Sequence[_Layer], families: Sequence[Family], kept: Sequence[float]) -> float:
    total = 0.0
    for layer in layers:
        shares = [kept[index] / families[index].units for index in layer.families]
        total += layer.operations * math.prod(shares)
    return total


def _steps(
    layers: Sequence[_Layer],
    families: Sequence[Family],
    curves: Sequence[Curve | None],
    kept: Sequence[int],
    round_to: int,
    budget: float,
) -> Iterator[tuple[float, int, int]]:
    """Yield (damage for each saved operation, family, units kept then) of all ways to go on.

    What is saved beyond the budget does not count: a large step is not worth more than needed.
    """
    now = _total(layers, families, kept)
    for index, (family, found) in enumerate(zip(families, curves, strict=True)):
        if found is None:
            continue
        before = found.damage(family.units - kept[index])
        for left in widths(family, round_to):
            if left >= kept[index]:
                continue
            then = [*kept]
            then[index] = left
            saved = now - max(_total(layers, families, then), budget)
            if saved > 0:
                yield (found.damage(family.units - left) - before) / saved, index, left


def widths(family: Family, round_to: int) -> list[int]:
    """Return the numbers of units that a family may keep, the whole included."""
    least = keep(family.units, family.size, 1 - SMALLEST, round_to)
    tried = {keep(family.units, family.size, n / 64, round_to) for n in range(64)}
    return sorted(n for n in tried if n >= least)


def marks(family: Family, round_to: int) -> list[int]:
    """Return after how many units gone the damage is measured: few, spread over all widths."""
    gone = sorted(family.units - n for n in widths(family, round_to) if n < family.units)
    if len(gone) <= MARKS:
        return gone
    return sorted({gone[round(i * (len(gone) - 1) / MARKS)] for i in range(1, MARKS + 1)})
