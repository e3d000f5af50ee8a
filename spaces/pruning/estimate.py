"""Estimate the damage of many changes to layers' weights from the gradients of a few samples."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, differentiable, length, own_parameters, plain, rows, samples
from spaces.modules.structure import matrices, readers
from spaces.task import Task
from spaces.training import sampled

PASSES = 3
"""Operations of a forward and backward pass, in forward passes."""
MOST = 64
"""Largest number of samples, each with a backward pass of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Change:
    """What is added to the weight and the bias of a layer, flattened."""

    weight: Tensor
    bias: Tensor | None


class Changes:
    """Changes of layers' weights, noted one after another, whose damages are estimated together.

    A measurement runs the model once for each change. An estimate needs one backward pass per
    sample for all of them: the damage to second order is half the mean square of the change times
    the gradient of `sampled`, since the first order vanishes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._changes: list[dict[str, _Change]] = []

    def note(self, changed: Mapping[str, Tensor]) -> int:
        """Keep matrices for layers as one change; return its number."""
        self._changes.append({name: self._change(name, new) for name, new in changed.items()})
        return len(self._changes) - 1

    def damages(self, task: Task, cost: float) -> list[float]:
        """Return the estimated damage of each change, in the order of their numbers.

        A sample has `cost` operations in a forward pass.
        """
        if not self._changes:
            return []
        count = samples.affordable(PASSES * cost, samples.budget(self._model), MOST)
        total = torch.zeros(len(self._changes), dtype=torch.float64)
        with differentiable(self._model), torch.enable_grad():
            for gradients in self._gradients(task, count):
                total += torch.tensor([_slope(c, gradients) for c in self._changes]).square()
        return [float(value) / (2 * count) for value in total]

    def _change(self, name: str, new: Tensor) -> _Change:
        module = self._model.get_submodule(name)
        difference = (new - readers.matrix(module).to(new.dtype)).float()
        bias = None
        if matrices.bias(module) is not None:
            difference, bias = difference[:, :-1], difference[:, -1].clone()
        stored = difference.T if matrices.transposed(module) else difference
        return _Change(weight=stored.flatten(), bias=bias)

    def _gradients(self, task: Task, count: int) -> Iterator[dict[str, _Change]]:
        """Yield the gradients of the changed layers, sample by sample."""
        names = list(dict.fromkeys(name for change in self._changes for name in change))
        own = {name: own_parameters(self._model.get_submodule(name)) for name in names}
        keys = [(name, key) for name in names for key in own[name] if key in ("weight", "bias")]
        parameters = [own[name][key] for name, key in keys]
        generator = torch.Generator().manual_seed(0)
        for inputs in _single(task, count):
            scalar = sampled(call(self._model, inputs), generator)
            found = torch.autograd.grad(scalar, parameters, allow_unused=True)
            flat = {k: _flat(g, p) for k, g, p in zip(keys, found, parameters, strict=True)}
            yield {
                name: _Change(weight=flat[name, "weight"], bias=flat.get((name, "bias")))
                for name in names
            }


def _single(task: Task, count: int) -> Iterator[Any]:
    """Yield the first training samples one by one."""
    for inputs in samples.batches(task, count):
        for row in range(length(inputs)):
            yield plain(rows(inputs, slice(row, row + 1)))


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """Return a gradient as a vector, zeros if the outputs do not depend on the parameter."""
    return (torch.zeros_like(parameter) if gradient is None else gradient).detach().flatten()


def _slope(change: Mapping[str, _Change], gradients: Mapping[str, _Change]) -> float:
    """Return the change of the scalar to first order."""
    total = 0.0
    for name, part in change.items():
        total += float(part.weight @ gradients[name].weight)
        bias = gradients[name].bias
        if part.bias is not None and bias is not None:
            total += float(part.bias @ bias)
    return total
