"""Measure the damage of a change to a model: the distance of its outputs from the original's."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, length, own_parameters
from spaces.modules.structure import readers
from spaces.pruning.refit import write
from spaces.task import Task
from spaces.technique import Infeasible
from spaces.training import distillation, operations

OPERATIONS = 3e10
"""Largest number of floating-point operations of one measurement: a second on one CPU core."""
FEWEST = 32
"""Smallest number of samples of one measurement."""


class ReferenceOutputs:
    """Outputs of the whole model on training samples, with which a changed model is compared."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model = model
        first = next(readers.batches(task, readers.BATCH))
        affordable = OPERATIONS * length(first) / max(operations(model, first), 1)
        samples = int(max(FEWEST, min(readers.SAMPLES, affordable)))
        self._inputs = list(readers.batches(task, samples))
        self._reference = [self._outputs(inputs) for inputs in self._inputs]

    def incomparable(self) -> str | None:
        """Return the reason why outputs of the model have no distance, None if they have one."""
        try:
            distillation(self._reference[0], self._reference[0], 1.0)
        except Infeasible:
            return "no output of the model is a floating-point tensor with a batch dimension"
        return None

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
