"""Structured pruning: remove whole channels, neurons and attention heads."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import nn

from spaces.dimension import Interval, axis, choice
from spaces.memory import FORGETFUL, Memory
from spaces.modules import Caches, evaluating, reestimate, samples
from spaces.modules.structure import (
    Coupled,
    Family,
    Removal,
    Snapshot,
    attempt,
    coupling,
    keep,
)
from spaces.pruning import (
    Curve,
    Scores,
    Statistics,
    allocation,
    refit,
    weakest,
)
from spaces.task import Task
from spaces.technique import Infeasible, Left, Scope, Stage, Technique

IMPORTANCES = ("surgery", "taylor", "l2", "scale", "random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channels(Technique):
    """Remove whole output channels with everything that depends on them.

    Convolution channels (also those that residual connections couple), hidden neurons and
    attention heads are removed; a transformer's hidden width and the outputs stay. Source: Fang et
    al. 2023, DepGraph, section 3, for the dependencies.
    """

    stage = Stage.SHAPE
    rank = 1
    ratio: float = axis(
        0.0, Interval(0.0, 0.9, step=0.05), unit="fraction of channels", short="prune {value}"
    )
    round_to: int = 8
    """Keep a multiple of this many channels, since speed changes with the width in steps."""
    importance: str = axis(
        "surgery", choice(*IMPORTANCES), unit="criterion of importance", on_request=True
    )
    """The channels that are removed first: those whose readers can compensate the loss best on 256
    training samples, of large models on fewer ("surgery"), those that change the task's loss least
    to first order ("taylor"), those with the smallest weights ("l2"), those with the smallest scale
    in batch normalisation ("scale"), or, as a control, random ones ("random")."""
    widths: str = "measured"
    """Every layer loses `ratio` of its channels ("uniform"), or the operations that this would save
    are distributed over the layers such that the damage is smallest ("measured")."""
    refit: bool = True
    """Refit the layers that read removed channels to their old outputs, by least squares."""
    rounds: int = 1
    """Rounds in which the ratio is reached; importance and damage are measured again in each."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be from 0 to below 1, got {self.ratio}")
        if self.importance not in IMPORTANCES:
            names = ", ".join(IMPORTANCES)
            raise ValueError(f"importance must be one of {names}, got {self.importance!r}")
        if self.widths not in ("measured", "uniform"):
            raise ValueError(f"widths must be measured or uniform, got {self.widths!r}")
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1 channel, got {self.round_to}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the edited model; what other settings need is computed anew."""
        return self.edit(model, task, FORGETFUL)

    def edit(self, model: nn.Module, task: Task, memory: Memory) -> nn.Module:
        """Return `model` without its least important channels, with new normalisation statistics.

        Raises Infeasible if the model cannot be traced or no channels can be removed.
        """
        if self.ratio == 0:
            return model
        units: dict[str, int] = {}
        for number in range(1, self.rounds + 1):
            try:
                self._round(model, task, memory, number, units)
            except Infeasible as error:
                if number > 1:  # the reason may not hold for the unpruned model
                    error.scope = Scope.POINT
                raise
        return model

    def _round(
        self, model: nn.Module, task: Task, memory: Memory, number: int, units: dict[str, int]
    ) -> None:
        """Prune to this round's share of the ratio; `units` has the sizes in the whole model."""
        caches = Caches(model)
        with torch.random.fork_rng(devices=[]), _traceable(model):
            torch.manual_seed(0)
            example = samples.example(task, memory)
            sets = coupling.find(model, example)
            fixed = [f"{group.name}, because {group.reason}" for group in sets if group.reason]
            coupled = [group for group in sets if group.ways]
            if not coupled:
                detail = f": {fixed[0]}" if fixed else ""
                raise Infeasible(
                    f"no layer of the model has channels that could be removed{detail}",
                    scope=Scope.TECHNIQUE,
                )
            for group in coupled:
                units.setdefault(group.name, group.ways[0].units)
            target = self.ratio * number / self.rounds
            ratios = [1 - units[g.name] * (1 - target) / g.ways[0].units for g in coupled]
            statistics = Statistics(model, task, memory)
            options = self._options(statistics, example, coupled, ratios)
            goals = statistics.goals(coupled) if self.refit else None
            caches.restore()
            removed, reasons = _prune(model, example, options)
            _warn([*fixed, *reasons], len(sets))
            if not removed:
                warnings.warn(
                    f"No channels were removed: at ratio {self.ratio:g} no set of units loses a "
                    f"multiple of {self.round_to} channels.",
                    Left,
                    stacklevel=3,
                )
            if removed and goals is not None:
                refit(model, goals, removed)
        caches.restore()
        if removed:
            reestimate(model, task, memory=memory)
            caches.restore()

    def canonical(self) -> Self:
        """Return the setting with a neutral criterion if nothing is removed."""
        return dataclasses.replace(self, importance="surgery") if self.ratio == 0 else self

    def usual(self) -> tuple[Self, ...]:
        """Return moderate and strong pruning."""
        return tuple(dataclasses.replace(self, ratio=ratio) for ratio in (0.2, 0.4))

    def _options(
        self,
        statistics: Statistics,
        example: Any,
        coupled: list[Coupled],
        ratios: Sequence[float],
    ) -> list[tuple[Removal, ...]]:
        """Return the removals from each coupled set, one for each way to divide it."""
        families = [group.ways[0] for group in coupled]
        curves = self._curves(statistics, coupled)
        counts = [self._keep(family, ratio) for family, ratio in zip(families, ratios, strict=True)]
        if any(c is not None and c.measured for c in curves):
            operations = allocation.count(statistics.model, example, families)
            counts = allocation.allocate(families, curves, operations, ratios, self.round_to)
        surgery = self.importance == "surgery"
        unobserved = any(c is None for c in curves)
        criterion = ("auto" if unobserved else "l2") if surgery else self.importance
        unordered = [
            way
            for group, found in zip(coupled, curves, strict=True)
            for way in group.ways
            if not surgery or found is None or way.units != group.ways[0].units
        ]
        channels = statistics.scores(criterion, unordered) if unordered else {}
        options = []
        for group, count, family_curve, ratio in zip(coupled, counts, curves, ratios, strict=True):
            removed = group.ways[0].units - count
            order = family_curve.order[:removed] if family_curve is not None and surgery else None
            options.append(
                tuple(
                    self._removal(way, removed, group, order, channels, ratio) for way in group.ways
                )
            )
        return options

    def _removal(
        self,
        way: Family,
        removed: int,
        group: Coupled,
        order: tuple[int, ...] | None,
        channels: Scores,
        ratio: float,
    ) -> Removal:
        """Return the removal in one way: `removed` units, if it has as many as the first way."""
        if way.units != group.ways[0].units:
            count = self._keep(way, ratio)
            return Removal(family=way, units=weakest(way, way.units - count, channels))
        units = weakest(way, removed, channels) if order is None else tuple(sorted(order))
        return Removal(family=way, units=units)

    def _curves(self, statistics: Statistics, coupled: list[Coupled]) -> Sequence[Curve | None]:
        """Return the order in which each set's units are removed and, if needed, the damage."""
        if self.importance != "surgery" and self.widths == "uniform":
            return [None] * len(coupled)
        return statistics.curves(coupled, None if self.widths == "uniform" else self.round_to)

    def _keep(self, family: Family, ratio: float) -> int:
        return keep(family.units, family.size, max(ratio, 0.0), self.round_to)


def _warn(reasons: Sequence[str], sets: int) -> None:
    """Warn that some of `sets` sets of units are not pruned, with the first reason."""
    if reasons:
        warnings.warn(
            f"{len(reasons)} of {sets} sets of units were left whole: {reasons[0]}"
            f"{f' and {len(reasons) - 1} more' if len(reasons) > 1 else ''}.",
            Left,
            stacklevel=4,
        )


def _prune(
    model: nn.Module, example: Any, options: list[tuple[Removal, ...]]
) -> tuple[list[Removal], list[str]]:
    """Remove units of each coupled set in the first way that works; return removals and reasons.

    All sets are tried at once, each in its most likely way. If that fails, each is tried alone.
    """
    nonempty = [ways for ways in options if any(r.units for r in ways)]
    if not nonempty:
        return [], []
    whole = Snapshot(model)
    likeliest = [ways[0] for ways in nonempty]
    if attempt(model, example, likeliest) is None:
        return likeliest, []
    whole.restore()
    chosen, reasons = [], []
    for ways in nonempty:
        removal, reason = _first(model, example, ways, whole)
        if removal is None:
            reasons.append(f"{ways[0].family.name}, because {reason}")
        elif removal.units:
            chosen.append(removal)
    if not chosen:
        raise Infeasible(f"no channels can be removed from this model: {reasons[0]}")
    reason = attempt(model, example, chosen)
    if reason is not None:
        whole.restore()
        raise Infeasible(f"the model does not work with fewer channels: {reason}")
    return chosen, reasons


def _first(
    model: nn.Module, example: Any, ways: tuple[Removal, ...], whole: Snapshot
) -> tuple[Removal | None, str | None]:
    """Return the first way that works alone, or None and the reason against the first way."""
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
    """Enter evaluation mode with gradients for all float parameters; restore both on exit."""
    required = {n: p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad(), evaluating(model):
            yield
    finally:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(required[name])
