"""Unstructured and 2:4 pruning: set single weights to zero and keep them zero."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from spaces.dimension import Interval, axis, choice
from spaces.memory import FORGETFUL, Memory
from spaces.modules import evaluating, own_parameters, reestimate
from spaces.plan import Plan
from spaces.pruning import (
    KeepZeros,
    fit,
    input_axis,
    largest,
    magnitudes,
    prunable,
    record,
    two_of_four,
)
from spaces.task import Task
from spaces.technique import Infeasible, Scope, Stage, Technique

DAMPING = 0.1
"""Ridge of the refit; larger than for channels, as 256 samples say less about few weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights(Technique):
    """Set the smallest weights of convolution and linear layers to zero.

    The other weights are refitted by least squares, and the artifact stores only these. Source:
    Han et al. 2015, Learning both weights and connections for efficient neural networks, section 3;
    Mishra et al. 2021, Accelerating sparse deep neural networks, section 3, for two of four.
    """

    stage = Stage.SHAPE
    rank = 2
    sparsity: float = axis(
        0.0, Interval(0.0, 0.95, step=0.05), unit="fraction of weights", short="sparse {value}"
    )
    pattern: str = axis("single", choice("single", "2:4"), unit="arrangement of zeros")
    """Any single weight may be removed ("single"), or two of every four consecutive inputs are
    ("2:4"): half of the weights, regardless of `sparsity`, the pattern of sparse tensor cores."""
    scope: str = axis("global", choice("global", "layer"), unit="who competes", on_request=True)
    """All layers' weights compete ("global"), or each layer loses the same share ("layer")."""
    refit: bool = True
    """Refit the weights that stay to the layers' old outputs, by least squares."""

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must be from 0 to below 1, got {self.sparsity}")
        if self.pattern not in ("single", "2:4"):
            raise ValueError(f"pattern must be single or 2:4, got {self.pattern!r}")
        if self.scope not in ("global", "layer"):
            raise ValueError(f"scope must be global or layer, got {self.scope!r}")

    @property
    def _neutral(self) -> bool:
        return self.sparsity == 0 and self.pattern == "single"

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the edited model; what other settings need is computed anew."""
        return self.edit(model, task, FORGETFUL)

    def edit(self, model: nn.Module, task: Task, memory: Memory) -> nn.Module:
        """Return `model` with zeros among its weights and with new normalisation statistics.

        Raises Infeasible if no weight can be removed.
        """
        if self._neutral:
            return model
        weights = prunable(model)
        if not weights:
            raise Infeasible(
                "the model has no convolution or linear layers whose weights could go",
                scope=Scope.TECHNIQUE,
            )
        scores = magnitudes(weights)
        if self.pattern == "2:4":
            masks = two_of_four(scores, {name: input_axis(model, name) for name in scores})
        else:
            masks = largest(scores, self.sparsity, self.scope)
        if all(bool(mask.all()) for mask in masks.values()):
            raise Infeasible(
                "no weight of the model can go: 2:4 needs layers whose inputs divide by four"
                if self.pattern == "2:4"
                else f"a sparsity of {self.sparsity} is less than one weight of this model"
            )
        with evaluating(model):
            self._prune(model, task, masks, memory)
        reestimate(model, task, memory=memory)
        return model

    def _prune(
        self, model: nn.Module, task: Task, masks: Mapping[str, Tensor], memory: Memory
    ) -> None:
        """Set weights to zero, and refit the others if asked for."""
        if not self.refit:
            _remove(model, masks)
            return
        layers = [name for name, _, key in (n.rpartition(".") for n in masks) if key == "weight"]
        goals = record(model, task, layers, memory)
        columns = _remove(model, masks)
        fit(model, goals, list(columns), masks=columns, damping=DAMPING)

    def plan(self, plan: Plan) -> Plan:
        """Constrain recovery training to keep the zeros."""
        if self._neutral:
            return plan
        constraints = (*plan.recovery.constraints, KeepZeros())
        recovery = dataclasses.replace(plan.recovery, constraints=constraints)
        return dataclasses.replace(plan, recovery=recovery)

    def canonical(self) -> Self:
        """Return the setting with neutral fields where 2:4 ignores them or nothing is removed."""
        if self.pattern == "2:4":
            return dataclasses.replace(self, sparsity=0.0, scope="global")
        return dataclasses.replace(self, scope="global") if self._neutral else self

    def usual(self) -> tuple[Self, ...]:
        """Return sparsities of 0.5 and of 0.8, which most networks tolerate if trained, and 2:4."""
        return (
            dataclasses.replace(self, sparsity=0.5, pattern="single"),
            dataclasses.replace(self, sparsity=0.8, pattern="single"),
            dataclasses.replace(self, sparsity=0.0, pattern="2:4"),
        )


@torch.no_grad()
def _remove(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Set weights to zero where their mask is False; return the columns that layers still use."""
    columns: dict[str, Tensor] = {}
    for name, weight in prunable(model).items():
        if bool(masks[name].all()):
            continue
        layer, _, key = name.rpartition(".")
        if key == "weight":
            columns[layer] = masks[name].movedim(input_axis(model, name), 1).flatten(1)
        # a new parameter, since the old one belongs to the whole model
        zeroed = weight.detach().masked_fill(~masks[name], 0)
        _replace(model, weight, nn.Parameter(zeroed, requires_grad=weight.requires_grad))
    return columns


def _replace(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Replace `old` by `new` in all modules, so that tied weights stay tied."""
    for module in model.modules():
        for key, parameter in own_parameters(module).items():
            if parameter is old:
                module.register_parameter(key, new)
