"""Score the importance of channels by their weights, or by the loss that removing them costs."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import (
    BatchNorm,
    TransposedConvolution,
    call,
    differentiable,
    length,
    plain,
    rows,
    seeded,
)
from spaces.modules.structure import Family, Member, Side, matrices
from spaces.task import Task
from spaces.training import normalised

SAMPLES = 256
"""Training samples from which gradients are taken."""
BATCH = 8
"""Samples whose gradients are summed before they are squared."""

Scores = Mapping[tuple[str, str], Tensor]
"""Scores of the channels of each side of a layer, (channels,), by the layer's name and side."""
CRITERIA = ("auto", "taylor", "l2", "scale", "random")


def scores(criterion: str, model: nn.Module, task: Task, families: Iterable[Family]) -> Scores:
    """Return the channels' scores by `criterion`, one of CRITERIA.

    "l2" is the L2 norm of a group's weights (Fang et al. 2023, DepGraph, section 3.3, without its
    learned shrinkage). "taylor" is the squared first-order change of the loss if the channel is
    set to zero (Molchanov et al. 2019, equation 8), summed over batches and over the group. "auto"
    is "l2" if batch normalisation keeps the weights on one scale, else "taylor": without training,
    a 6-layer BERT pruned by 0.3 keeps 0.875 of 0.884 by "taylor" and 0.829 by "l2", and a
    ResNet-20 pruned by 0.3 keeps 0.41 of 0.90 by "taylor" and 0.47 by "l2". "scale" is the
    magnitude of the batch normalisation's scale (Liu et al. 2017, Network slimming, section 3,
    without its learned shrinkage), and "l2" in a group without batch normalisation. "random" is
    the control: random numbers, the same at every call.
    """
    criterion = resolved(criterion, model)
    if criterion == "scale":
        families = [_scaled(family) for family in families]
    members = {(m.name, m.side): m for family in families for m in family.members}
    if criterion in ("l2", "scale"):
        return _per_channel(members, torch.square)
    if criterion == "random":
        generator = torch.Generator().manual_seed(0)
        return {
            key: torch.rand(m.unit.numel(), dtype=torch.float64, generator=generator)
            for key, m in sorted(members.items())
        }
    total: dict[tuple[str, str], Tensor] = {}
    with differentiable(model):
        for _ in _gradients(model, task):
            for key, change in _per_channel(members, _change).items():
                total[key] = total.get(key, torch.zeros(())) + change.square()
    return total


def resolved(criterion: str, model: nn.Module) -> str:
    """Return the criterion that "auto" stands for, or the given one."""
    if criterion != "auto":
        return criterion
    return "l2" if normalised(model) else "taylor"


def weakest(family: Family, count: int, channels: Scores) -> tuple[int, ...]:
    """Return the `count` units with the smallest total scores, in ascending order of the units."""
    total = torch.zeros(family.units, dtype=torch.float64)
    for member in family.members:
        score = channels.get((member.name, member.side))
        if score is not None:
            used = member.unit >= 0
            total.index_add_(0, member.unit[used], score.cpu()[used])
    order = torch.sort(total, stable=True).indices[:count]
    return tuple(sorted(int(i) for i in order))


def _scaled(family: Family) -> Family:
    """Return a family with only its batch normalisations, or all members if it has none."""
    norms = tuple(m for m in family.members if isinstance(m.module, BatchNorm) and m.module.affine)
    return dataclasses.replace(family, members=norms or family.members)


def _gradients(model: nn.Module, task: Task) -> Iterable[None]:
    """Yield after the backward pass of each small batch, with gradients on the parameters."""
    with seeded(0):
        count = 0
        for inputs, targets in task.batches("train", SAMPLES):
            for start in range(0, length(inputs), BATCH):
                part = slice(start, start + BATCH)
                model.zero_grad()
                outputs = call(model, _part(inputs, part))
                torch.autograd.backward(task.loss(outputs, _part(targets, part)))
                yield
                count += BATCH
                if count >= SAMPLES:
                    model.zero_grad()
                    return
        model.zero_grad()


def _part(tree: Any, part: slice) -> Any:
    return plain(rows(tree, part))


def _change(weight: Tensor) -> Tensor:
    """Return the first-order change of the loss if each element of `weight` becomes zero."""
    if weight.grad is None:
        return torch.zeros_like(weight, dtype=torch.float64)
    return weight.detach().double() * weight.grad.double()


def _per_channel(
    members: Mapping[tuple[str, Side], Member], term: Callable[[Tensor], Tensor]
) -> dict[tuple[str, str], Tensor]:
    sums = {(name, str(side)): _channels(m, term) for (name, side), m in members.items()}
    return {key: value for key, value in sums.items() if value is not None}


def _channels(member: Member, term: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return the sum of `term` over each channel's weights; None if the layer has none."""
    module = member.module
    if isinstance(module, nn.MultiheadAttention):
        projected = term(module.in_proj_weight).detach().double().sum(1).view(3, -1).sum(0)
        return projected + term(module.out_proj.weight).detach().double().sum(0)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, nn.PReLU):
        return None
    values = term(weight).detach().double()
    if weight.dim() == 1:
        return values
    swapped = matrices.transposed(module) or isinstance(module, TransposedConvolution)
    axis = int((member.side == "in") != swapped)
    sums = values.sum([d for d in range(values.dim()) if d != axis])
    # a grouped convolution stores the input channels of one group, which stand for all groups
    return sums.repeat(member.unit.numel() // sums.numel())
