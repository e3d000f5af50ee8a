"""Measured damage: how far a model's outputs move when some of its layers are changed."""

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
"""Most floating-point operations of one measurement: a second on one CPU core."""
FEWEST = 32
"""Samples of one measurement at least."""


class Outputs:
    """The whole model's outputs on training samples, and the distance from them."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        self._model = model
        first = next(readers.batches(task, readers.BATCH))
        affordable = OPERATIONS * length(first) / max(operations(model, first), 1)
        samples = int(max(FEWEST, min(readers.SAMPLES, affordable)))
        self._inputs = list(readers.batches(task, samples))
        self._whole = [self._outputs(inputs) for inputs in self._inputs]

    def incomparable(self) -> str | None:
        """Return why two outputs of the model have no distance, None if they have."""
        try:
            distillation(self._whole[0], self._whole[0], 1.0)
        except Infeasible:
            return "no output of the model is a floating-point tensor with a batch dimension"
        return None

    def distance(self, matrices: Mapping[str, Tensor]) -> float:
        """Return the mean distillation term at temperature 1 with `matrices` in the layers.

        It needs no labels and, unlike a difference of two losses, is zero only where nothing
        changed. The layers are left as they were.
        """
        layers = {name: self._model.get_submodule(name) for name in matrices}
        saved = {name: own_parameters(layer) for name, layer in layers.items()}
        try:
            for name, matrix in matrices.items():
                write(layers[name], matrix)
            return self.moved()
        finally:
            for name, parameters in saved.items():
                for key, parameter in parameters.items():
                    layers[name].register_parameter(key, parameter)

    def moved(self) -> float:
        """Return the mean distillation term at temperature 1 of the model as it is now."""
        pairs = zip(self._inputs, self._whole, strict=True)
        terms = [float(distillation(self._outputs(i), whole, 1.0)) for i, whole in pairs]
        return sum(terms) / len(terms)

    def _outputs(self, inputs: Any) -> Any:
        with torch.no_grad():
            return call(self._model, inputs)
