"""Measure the damage of a change to a model: the distance of its outputs from the original's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spaces.memory import Memory
from spaces.modules import call, length, own_parameters, samples
from spaces.pruning.refit import write
from spaces.task import Task
from spaces.technique import Infeasible
from spaces.training import distillation, operations

OPERATIONS = 3e10
"""Largest number of floating-point operations of one measurement: a second on one CPU core."""
FEWEST = 32
"""Smallest number of samples of one measurement."""
SHARE = 2.5
"""Operations of all measurements together, in passes over the samples of statistics."""


def incomparable(model: nn.Module, task: Task, memory: Memory) -> str | None:
    """Return the reason why outputs of the model have no distance, None if they have one."""
    with torch.no_grad():
        outputs = call(model, samples.example(task, memory))
    try:
        distillation(outputs, outputs, 1.0)
    except Infeasible:
        return "no output of the model is a floating-point tensor with a batch dimension"
    return None


def measurable(model: nn.Module, cost: float, measurements: int) -> int:
    """Return the samples of each of so many measurements; 0 if too few are affordable.

    A sample has `cost` operations.
    """
    available = SHARE * samples.budget(model) / max(measurements, 1) / cost
    return 0 if available < FEWEST else min(_count(cost), int(available))


def _count(cost: float) -> int:
    """Return the samples of one measurement, of which one has `cost` operations."""
    return int(max(FEWEST, min(samples.SAMPLES, OPERATIONS / cost)))


class ReferenceOutputs:
    """Outputs of the whole model on training samples, with which a changed model is compared."""

    def __init__(self, model: nn.Module, task: Task, count: int | None = None) -> None:
        """Run `model` on `count` samples, by default as many as one measurement is worth."""
        self._model = model
        if count is None:
            first = next(samples.batches(task, samples.BATCH))
            count = _count(max(operations(model, first) / length(first), 1))
        self._inputs = list(samples.batches(task, count))
        self._reference = [self._outputs(inputs) for inputs in self._inputs]

    def distance(self, matrices: Mapping[str, Tensor]) -> float:
        """Return the mean distillation term at temperature 1 with `matrices` as layers' weights.

        It needs no labels and, unlike a difference of two losses, is zero only if nothing changed.
        The layers are restored afterwards.
        """
        layers = {name: self._model.get_submodule(name) for name in matrices}
        saved = {name: own_parameters(layer) for name, layer in layers.items()}
        try:
            for name, matrix in matrices.items():
                write(layers[name], matrix)
            return self.damage()
        finally:
            for name, parameters in saved.items():
                for key, parameter in parameters.items():
                    layers[name].register_parameter(key, parameter)

    def damage(self) -> float:
        """Return the mean distillation term at temperature 1 of the model as it is now."""
        pairs = zip(self._inputs, self._reference, strict=True)
        terms = [float(distillation(self._outputs(i), expected, 1.0)) for i, expected in pairs]
        return sum(terms) / len(terms)

    def _outputs(self, inputs: Any) -> Any:
        with torch.no_grad():
            return call(self._model, inputs)
