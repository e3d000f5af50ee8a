"""Decide if a point can be executed, before anything is computed for it."""

from torch import nn

from objectives.placement import limits
from search.experiment.experiment import Experiment
from spaces import Plan
from spaces.modules import Convolution
from spaces.training import refusal as untrainable

MINOR = 0.02
"""Share of a model's weights below which its convolutions are ignored."""


def refusal(experiment: Experiment, plan: Plan, kinds: frozenset[str]) -> str | None:
    """Return the reason why a plan cannot be executed, or None if it can.

    Kernels are looked up on the current machine. The number of devices is not checked: that is up
    to the executor.
    """
    runtime, target = experiment.runtime(plan.runtime), experiment.target
    return (
        plan.encoding.clash
        or runtime.overlooks(plan.encoding)
        or untrainable(plan.recovery, target.device)
        or runtime.refuses(plan.encoding, target, kinds)
        or limits.refuses(plan.placement, plan.encoding, plan.runtime, runtime)
        or unmeasurable(experiment, kinds)
    )


def unmeasurable(experiment: Experiment, kinds: frozenset[str]) -> str | None:
    """Return the reason why this machine cannot measure one of the objectives, or None."""
    for goal in experiment.objectives:
        if reason := goal.objective.refuses(experiment.target, kinds):
            return f"{goal.name}: {reason}"
    return None


def refusal_here(experiment: Experiment, plan: Plan, kinds: frozenset[str]) -> str | None:
    """Return the reason why this machine, with its devices, cannot execute a plan, or None."""
    return refusal(experiment, plan, kinds) or limits.lacks(experiment.target, plan.placement)


def kinds_of(model: nn.Module) -> frozenset[str]:
    """Return the class names of a model's layers.

    Convolutions with hardly any of the weights, such as the patch embedding of a vision
    transformer, are left out: a runtime that computes the other layers in integers counts as
    computing the model in integers.
    """
    minor = MINOR * sum(p.numel() for p in model.parameters())
    few = sum(m.weight.numel() for m in model.modules() if isinstance(m, Convolution)) < minor
    return frozenset(
        type(m).__name__ for m in model.modules() if not (few and isinstance(m, Convolution))
    )
