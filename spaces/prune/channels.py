"""Structured pruning: whole channels, neurons and attention heads leave the model."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import nn

from spaces._dimension import Interval, axis
from spaces._statistics import reestimate
from spaces._task import Task
from spaces._technique import Infeasible, Stage, Technique
from spaces.prune._coupling import Coupled, find
from spaces.prune._family import Family, keep
from spaces.prune._importance import CRITERIA, Scores, scores, weakest
from spaces.prune._removal import Removal, Snapshot, attempt


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channels(Technique):
    """Remove whole output channels with everything that depends on them.

    Convolution channels (also those that residual connections couple), hidden neurons and
    attention heads go; a transformer's hidden width and the outputs stay. Source: Fang et al.
    2023, DepGraph, section 3, for what depends on what.
    """

    stage = Stage.SHAPE
    ratio: float = axis(0.0, Interval(0.0, 0.9, step=0.05), unit="fraction of channels")
    round_to: int = 8
    """Keep a multiple of this many channels: speed is a staircase in the width."""
    importance: str = "auto"
    """Which channels go first: those that the loss misses least on 256 training samples
    ("taylor"), those with the smallest weights ("l2"), or by the kind of model ("auto")."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be from 0 to below 1, got {self.ratio}")
        if self.importance not in CRITERIA:
            raise ValueError(f"importance must be auto, taylor or l2, got {self.importance!r}")
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1 channel, got {self.round_to}")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return `model` with the weakest channels removed and its statistics estimated anew."""
        if self.ratio == 0:
            return model
        example = next(iter(task.batches("validation", 2)))[0]
        with torch.random.fork_rng(devices=[]), _traceable(model):
            torch.manual_seed(0)
            coupled = find(model, example)
            if not coupled:
                raise Infeasible("no layer of the model has channels that could be removed")
            families = [way for group in coupled for way in group.ways]
            found = scores(self.importance, model, task, families)
            removed = _prune(model, example, [self._removals(c, found) for c in coupled])
        if removed:
            reestimate(model, task)
        return model

    def usual(self) -> tuple[Self, ...]:
        """Return moderate and strong pruning."""
        return tuple(dataclasses.replace(self, ratio=ratio) for ratio in (0.3, 0.5))

    def _removals(self, coupled: Coupled, found: Scores) -> tuple[Removal, ...]:
        """Return what to remove in each way that the coupled layers may be divided."""
        return tuple(Removal(family=w, units=self._weakest(w, found)) for w in coupled.ways)

    def _weakest(self, family: Family, found: Scores) -> tuple[int, ...]:
        left = keep(family.units, family.size, self.ratio, self.round_to)
        return weakest(family, family.units - left, found)


def _prune(model: nn.Module, example: Any, options: list[tuple[Removal, ...]]) -> bool:
    """Remove from each coupled set in the first way that works; return whether anything went.

    All sets are tried at once, each in its likeliest way. Only if that fails is each tried alone.
    """
    wanted = [ways for ways in options if any(r.units for r in ways)]
    if not wanted:
        return False
    whole = Snapshot(model)
    if attempt(model, example, [ways[0] for ways in wanted]) is None:
        return True
    whole.restore()
    chosen, reasons = [], []
    for ways in wanted:
        removal, reason = _first(model, example, ways, whole)
        if removal is None:
            reasons.append(f"{ways[0].family.name}: {reason}")
        elif removal.units:
            chosen.append(removal)
    if not chosen:
        raise Infeasible(f"no channels can be removed from this model: {reasons[0]}")
    reason = attempt(model, example, chosen)
    if reason is not None:
        whole.restore()
        raise Infeasible(f"the model does not work with fewer channels: {reason}")
    if reasons:
        warnings.warn(
            f"prune.channels leaves {len(reasons)} of {len(wanted)} sets of coupled layers whole; "
            f"the first is {reasons[0]}",
            stacklevel=3,
        )
    return True


def _first(
    model: nn.Module, example: Any, ways: tuple[Removal, ...], whole: Snapshot
) -> tuple[Removal | None, str | None]:
    """Return the first way that works alone, or None and why the first of them does not."""
    reasons = []
    for removal in ways:
        reason = attempt(model, example, [removal]) if removal.units else None
        whole.restore()
        if reason is None:
            return removal, None
        reasons.append(reason)
    return None, reasons[0]


@contextlib.contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients for every float parameter, both restored at the end."""
    modes = [(m, m.training) for m in model.modules()]
    wants = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(wants[name])
        for module, training in modes:
            module.training = training
