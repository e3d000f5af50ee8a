"""Allocate widths to families, saving operations where the damage is smallest."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from spaces.modules import Convolution, call
from spaces.modules.structure import Family, keep, matrices
from spaces.pruning.surgeon import Curve

SMALLEST = 0.125
"""Smallest share of its units that a family keeps."""
MARKS = 2
"""Number of widths of a family at which the damage is measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layer:
    """Operations of a layer, and the families to which its outputs and inputs belong, if any."""

    operations: float
    families: tuple[int, ...]


def allocate(
    families: Sequence[Family],
    curves: Sequence[Curve | None],
    operations: Mapping[str, float],
    ratios: Sequence[float],
    round_to: int,
) -> list[int]:
    """Return the number of units that each family keeps.

    The result needs about the operations of a model in which every family loses its share of
    `ratios`, with little damage: widths are reduced step by step, always where the damage per
    saved operation is smallest. Families without a curve keep the number given by their ratio. A
    negative ratio belongs to a family that has already lost more than its share.
    """
    pairs = list(zip(families, ratios, strict=True))
    uniform = [keep(f.units, f.size, max(r, 0.0), round_to) for f, r in pairs]
    layers = list(_layers(families, operations))
    budget = _total(layers, families, [f.units * (1 - r) for f, r in pairs])
    counts = [f.units if c else u for f, c, u in zip(families, curves, uniform, strict=True)]
    damages = [_damages(f, c, round_to) for f, c in zip(families, curves, strict=True)]
    while (total := _total(layers, families, counts)) > budget:
        slopes = _slopes(layers, families, counts)
        step = min(_steps(damages, counts, slopes, total - budget), default=None)
        if step is None:
            break
        _, index, units = step
        reduced = [*counts]
        reduced[index] = units
        if budget - _total(layers, families, reduced) > total - budget:
            break  # the step would end further below the budget than the total is above it
        counts = reduced
    return counts


def count(model: nn.Module, example: object, families: Sequence[Family]) -> dict[str, float]:
    """Return the multiplications of each layer of `families` in one pass over `example`."""
    operations: dict[str, float] = {}
    layers = {m.name: m.module for family in families for m in family.members}
    hooks = [
        module.register_forward_hook(_counter(name, operations))
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
    return operations


def _counter(name: str, operations: dict[str, float]) -> Callable[..., None]:
    def hook(module: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        channels = tensor.shape[1 if isinstance(module, Convolution) else -1]
        weights = sum(p.numel() for p in module.parameters() if p.dim() > 1)
        count = tensor.numel() / channels * weights
        operations[name] = operations.get(name, 0.0) + count

    return hook


def _layers(families: Sequence[Family], operations: Mapping[str, float]) -> Iterator[_Layer]:
    """Yield the layers with the families of their outputs and inputs."""
    member_of: dict[str, list[int]] = {}
    for index, family in enumerate(families):
        for member in family.members:
            numbers = member_of.setdefault(member.name, [])
            # cutting groups of a grouped layer leaves the depth of its kernels unchanged
            if index not in numbers or getattr(member.module, "groups", 1) == 1:
                numbers.append(index)
    for name, indices in member_of.items():
        if name in operations:
            yield _Layer(operations=operations[name], families=tuple(indices))


def _total(layers: Sequence[_Layer], families: Sequence[Family], counts: Sequence[float]) -> float:
    """Return the operations of the layers if the families keep `counts` units."""
    total = 0.0
    for layer in layers:
        shares = [counts[index] / families[index].units for index in layer.families]
        total += layer.operations * math.prod(shares)
    return total


def _slopes(
    layers: Sequence[_Layer], families: Sequence[Family], counts: Sequence[int]
) -> list[dict[int, float]]:
    """Return each family's operations by the number of sides of a layer that belong to it.

    A layer with one side in a family needs operations in proportion to its units, with both sides
    in proportion to their square.
    """
    slopes: list[dict[int, float]] = [{} for _ in families]
    for layer in layers:
        operations = _total([layer], families, counts)
        for index in set(layer.families):
            sides = layer.families.count(index)
            slopes[index][sides] = slopes[index].get(sides, 0.0) + operations
    return slopes


def _damages(family: Family, curve: Curve | None, round_to: int) -> dict[int, float]:
    """Return the damage at each number of units that a family may keep; empty without a curve."""
    if curve is None:
        return {}
    return {n: curve.damage(family.units - n) for n in [*widths(family, round_to), family.units]}


def _steps(
    damages: Sequence[Mapping[int, float]],
    counts: Sequence[int],
    slopes: Sequence[Mapping[int, float]],
    needed: float,
) -> Iterator[tuple[float, int, int]]:
    """Yield (damage per saved operation, family, its units) for each possible reduction.

    Savings beyond the `needed` ones do not count.
    """
    for index, (known, count) in enumerate(zip(damages, counts, strict=True)):
        for units, damage in known.items():
            if units >= count:
                break
            share = units / count
            saved = sum(ops * (1 - share**sides) for sides, ops in slopes[index].items())
            if saved > 0:
                yield (damage - known[count]) / min(saved, needed), index, units


def widths(family: Family, round_to: int) -> list[int]:
    """Return the numbers of units that a family may keep, including all of them."""
    least = keep(family.units, family.size, 1 - SMALLEST, round_to)
    candidates = {keep(family.units, family.size, n / 64, round_to) for n in range(64)}
    return sorted(n for n in candidates if n >= least)


def marks(family: Family, round_to: int) -> list[int]:
    """Return the numbers of removed units at which to measure the damage: few, over all widths."""
    removed = sorted(family.units - n for n in widths(family, round_to) if n < family.units)
    if len(removed) <= MARKS:
        return removed
    return sorted({removed[round(i * (len(removed) - 1) / MARKS)] for i in range(1, MARKS + 1)})
