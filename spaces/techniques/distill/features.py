"""Feature distillation: recovery training on the teacher's hidden states, too."""

import dataclasses
import math
from typing import Self

from spaces.dimension import axis, choice
from spaces.outputs import Outputs
from spaces.plan import Plan
from spaces.technique import Stage, Technique


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(Technique):
    """Add to the loss the distance of inner layers' outputs from the teacher's.

    Layers are matched by name, since the student is the shaped teacher; dropped blocks are skipped.
    The layers are blocks (children of a ModuleList or Sequential that have children themselves) and
    attention layers; in a model without either, all linear and convolution layers except the last.
    Where pruning changed a width, a learned linear projection maps the student's features to the
    teacher's width; it is trained with the model and discarded afterwards. In attention layers with
    linear layers for queries, keys and values, the relations of tokens in each of these are also
    compared. Attention maps are not: they need the same heads in both models, and fused attention
    does not compute them.
    Sources: Romero et al. 2015, FitNets, section 2.2 (regressor from the student's width to the
    teacher's); Jiao et al. 2020, TinyBERT, section 3.1 (hidden states); Wang et al. 2021, MiniLMv2,
    section 3.1 (relations in place of maps).
    """

    stage = Stage.TRAIN
    weight: float = axis(0.0, choice(0.0, 3.0, 10.0, 30.0), unit="factor of the features' term")
    layers: int = 0
    """Largest number of compared layers, evenly spaced and including the last; 0 compares all."""

    relations: bool = True
    """Whether the relations of tokens are compared as well."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight must be finite and 0 or more, got {self.weight}")
        if self.layers < 0:
            raise ValueError(f"layers must be 0 (all) or more, got {self.layers}")

    def plan(self, plan: Plan) -> Plan:
        """Set this term of the loss; distill.logits sets the steps."""
        if self.weight == 0:
            return plan
        recovery = dataclasses.replace(
            plan.recovery,
            feature_weight=self.weight,
            feature_layers=self.layers,
            feature_relations=self.relations,
        )
        return dataclasses.replace(plan, recovery=recovery)

    def settled(self, plan: Plan, outputs: Outputs) -> Self:
        """Return the neutral setting if nothing is trained."""
        del outputs
        return self if plan.recovery.steps else dataclasses.replace(self, weight=0.0)

    def usual(self) -> tuple[Self, ...]:
        """Return a weight at which the term contributes most of the gradient."""
        return (dataclasses.replace(self, weight=30.0),)
