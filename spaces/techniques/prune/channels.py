"""Structured pruning: whole channels, neurons and attention heads leave the model."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import nn

from spaces.dimension import Interval, axis, choice
from spaces.modules import evaluating, reestimate
from spaces.modules.structure import (
    Coupled,
    Family,
    Removal,
    Snapshot,
    attempt,
    coupling,
    keep,
    readers,
)
from spaces.pruning import (
    Curve,
    ReferenceOutputs,
    Scores,
    allocation,
    curve,
    refit,
    scores,
    weakest,
)
from spaces.task import Task
from spaces.technique import Infeasible, Left, Scope, Stage, Technique

IMPORTANCES = ("surgery", "taylor", "l2", "scale", "random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channels(Technique):
    """Remove whole output channels with everything that depends on them.

    Convolution channels (also those that residual connections couple), hidden neurons and
    attention heads go; a transformer's hidden width and the outputs stay. Source: Fang et al.
    2023, DepGraph, section 3, for what depends on what.
    """

    stage = Stage.SHAPE
    rank = 1
    ratio: float = axis(
        0.0, Interval(0.0, 0.9, step=0.05), unit="fraction of channels", short="prune {value}"
    )
    round_to: int = 8
    """Keep a multiple of this many channels: speed is a staircase in the width."""
    importance: str = axis(
        "surgery", choice(*IMPORTANCES), unit="criterion of importance", on_request=True
    )
    """Which channels go first: those for which the layers that read them can best make up on 256
    training samples ("surgery"), those that the loss misses least to first order ("taylor"),
    those with the smallest weights ("l2"), those with the smallest scale in batch normalisation
    ("scale"), or, as a control, any ("random")."""
    widths: str = "measured"
    """Every layer loses `ratio` of its channels ("uniform"), or the layers share out the
    operations that this would save so that the damage is smallest ("measured")."""
    refit: bool = True
    """Refit the layers that read removed channels to their old outputs, by least squares."""
    rounds: int = 1
    """Steps in which the ratio is reached; importance and damage are measured anew in each."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be from 0 to below 1, got {self.ratio}")
        if self.importance not in IMPORTANCES:
            known = ", ".join(IMPORTANCES)
            raise ValueError(f"importance must be one of {known}, got {self.importance!r}")
        if self.widths not in ("measured", "uniform"):
            raise ValueError(f"widths must be measured or uniform, got {self.widths!r}")
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1 channel, got {self.round_to}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    def apply(self, model: nn.Module, task: Task) -> nn.Module:
        """Return `model` with the weakest channels removed and its statistics estimated anew."""
        if self.ratio == 0:
            return model
        example = next(iter(task.batches("validation", 2)))[0]
        units: dict[str, int] = {}
        for number in range(1, self.rounds + 1):
            try:
                self._round(model, task, example, number, units)
            except Infeasible as error:
                if number > 1:  # what the rounds before have left is another model
                    error.scope = Scope.POINT
                raise
        return model

    def _round(
        self, model: nn.Module, task: Task, example: Any, number: int, units: dict[str, int]
    ) -> None:
        """Prune to this round's share of the ratio; `units` are those of the whole model."""
        with torch.random.fork_rng(devices=[]), _traceable(model):
            torch.manual_seed(0)
            found = coupling.find(model, example)
            fixed = [f"{group.name}, because {group.reason}" for group in found if group.reason]
            coupled = [group for group in found if group.ways]
            if not coupled:
                why = f": {fixed[0]}" if fixed else ""
                raise Infeasible(
                    f"no layer of the model has channels that could be removed{why}",
                    scope=Scope.TECHNIQUE,
                )
            for group in coupled:
                units.setdefault(group.name, group.ways[0].units)
            target = self.ratio * number / self.rounds
            ratios = [1 - units[g.name] * (1 - target) / g.ways[0].units for g in coupled]
            whole = Snapshot(model)
            options = self._options(model, task, example, coupled, ratios)
            removed, reasons = _prune(model, example, options)
            _tell([*fixed, *reasons], len(found))
            if removed and self.refit:
                refit(model, whole, task, removed)
        if removed:
            reestimate(model, task)

    def canonical(self) -> Self:
        """Return the setting without a criterion by which nothing is removed."""
        return dataclasses.replace(self, importance="surgery") if self.ratio == 0 else self

    def usual(self) -> tuple[Self, ...]:
        """Return moderate and strong pruning."""
        return tuple(dataclasses.replace(self, ratio=ratio) for ratio in (0.2, 0.4))

    def _options(
        self,
        model: nn.Module,
        task: Task,
        example: Any,
        coupled: list[Coupled],
        ratios: Sequence[float],
    ) -> list[tuple[Removal, ...]]:
        """Return what to remove from each coupled set, in each way that it may be divided."""
        first = [group.ways[0] for group in coupled]
        curves = self._curves(model, task, first)
        kept = [self._keep(family, ratio) for family, ratio in zip(first, ratios, strict=True)]
        if any(known is not None and known.measured for known in curves):
            operations = allocation.count(model, example, first)
            kept = allocation.allocate(first, curves, operations, ratios, self.round_to)
        surgery = self.importance == "surgery"
        blind = any(known is None for known in curves)
        criterion = ("auto" if blind else "l2") if surgery else self.importance
        found = scores(criterion, model, task, [way for group in coupled for way in group.ways])
        options = []
        for group, left, known, ratio in zip(coupled, kept, curves, ratios, strict=True):
            going = group.ways[0].units - left
            order = known.order[:going] if known is not None and surgery else None
            options.append(
                tuple(self._removal(way, going, group, order, found, ratio) for way in group.ways)
            )
        return options

    def _removal(
        self,
        way: Family,
        going: int,
        group: Coupled,
        order: tuple[int, ...] | None,
        found: Scores,
        ratio: float,
    ) -> Removal:
        """Return what to remove in one way: what was chosen for the first, if the units are its."""
        if way.units != group.ways[0].units:
            left = self._keep(way, ratio)
            return Removal(family=way, units=weakest(way, way.units - left, found))
        units = weakest(way, going, found) if order is None else tuple(sorted(order))
        return Removal(family=way, units=units)

    def _curves(
        self, model: nn.Module, task: Task, families: list[Family]
    ) -> Sequence[Curve | None]:
        """Return in which order each family's units go and, if asked, with what damage."""
        if self.importance != "surgery" and self.widths == "uniform":
            return [None] * len(families)
        read = {m.name for f in families for m in f.members if m.side == "in"}
        read_by = readers.observe(model, task, read)
        if self.widths == "uniform":
            return [curve(family, read_by) for family in families]
        outputs = ReferenceOutputs(model, task)
        if reason := outputs.incomparable():
            warnings.warn(f"prune.channels prunes all layers alike: {reason}", stacklevel=2)
            return [curve(family, read_by) for family in families]
        at = [allocation.marks(family, self.round_to) for family in families]
        return [curve(f, read_by, outputs.distance, m) for f, m in zip(families, at, strict=True)]

    def _keep(self, family: Family, ratio: float) -> int:
        return keep(family.units, family.size, max(ratio, 0.0), self.round_to)


def _tell(reasons: Sequence[str], sets: int) -> None:
    """Warn that sets of units stay whole, with the first reason."""
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
    """Remove from each coupled set in the first way that works; return what went and what not.

    All sets are tried at once, each in its likeliest way. Only if that fails is each tried alone.
    """
    wanted = [ways for ways in options if any(r.units for r in ways)]
    if not wanted:
        return [], []
    whole = Snapshot(model)
    likeliest = [ways[0] for ways in wanted]
    if attempt(model, example, likeliest) is None:
        return likeliest, []
    whole.restore()
    chosen, reasons = [], []
    for ways in wanted:
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
    wants = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        with torch.enable_grad(), evaluating(model):
            yield
    finally:
        for name, parameter in model.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(wants[name])
