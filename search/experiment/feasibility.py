"""Whether a point can be executed, asked before anything is paid for it."""

from torch import nn

from objectives.placement import limits
from search.experiment.experiment import Experiment
from spaces import Plan
from spaces.modules import Convolution
from spaces.training import refusal as untrainable

MINOR = 0.02
"""Share of the weights below which convolutions do not speak for a model."""


def refusal(experiment: Experiment, plan: Plan, kinds: frozenset[str]) -> str | None:
    """Return why a plan cannot be executed, before anything is paid for it; None if it can.

    Whether there are as many devices as it asks for is the executor's to say. What has kernels is
    asked of the machine that this is called on.
    """
    runtime, target = experiment.runtime(plan.runtime), experiment.target
    return (
        plan.encoding.clash
        or runtime.overlooks(plan.encoding)
        or untrainable(plan.recovery, target.device)
        or runtime.refuses(plan.encoding, target, kinds)
        or limits.refuses(plan.placement, plan.encoding, plan.runtime, runtime)
    )


def refusal_here(experiment: Experiment, plan: Plan, kinds: frozenset[str]) -> str | None:
    """Return why a plan cannot be executed on this host, which no cluster then helps out."""
    return refusal(experiment, plan, kinds) or limits.lacks(experiment.target, plan.placement)


def kinds_of(model: nn.Module) -> frozenset[str]:
    """Return the class names of a model's layers.

    Convolutions with hardly any of the weights are left out, as a vision transformer's patches: a
    runtime that computes the other layers in integers computes the model in integers.
    """
    minor = MINOR * sum(p.numel() for p in model.parameters())
    few = sum(m.weight.numel() for m in model.modules() if isinstance(m, Convolution)) < minor
    return frozenset(
        type(m).__name__ for m in model.modules() if not (few and isinstance(m, Convolution))
    )
