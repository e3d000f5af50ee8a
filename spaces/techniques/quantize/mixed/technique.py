"""A width for every layer: few bits where they cost little, more where they cost much."""

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from torch import nn

from spaces import (
    Encoding,
    Plan,
    Prepared,
    Stage,
    Technique,
    Time,
    Tools,
    Untimed,
    axis,
    choice,
)
from spaces.devices import device_of
from spaces.quantization import WIDTHS, Allocation, Grid, allocation, allotted, constrained
from spaces.techniques.quantize.mixed.kinds import WEIGHT, kinds
from spaces.techniques.quantize.mixed.times import Times

MOST = 12
"""Kinds of layers that are timed, those with most work; the others have no say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed(Technique):
    """Store weights in `mean_bits` on average, allocated to layers by what they cost the loss.

    Each layer gets 8, 6, 4, 3 or 2 bits. What a width costs a layer is measured on training data
    (Fisher-weighted output error), and how long it then takes on the target, by the point's
    runtime; an integer programme finds the best allocation. The record holds it with the times.
    Where these do not differ, or cannot be measured, the loss alone counts, and the record says
    so. Source: Dong et al. 2020, HAWQ-V2, section 3 (allocation by sensitivity); Yao et al. 2021,
    HAWQ-V3, section 3 (and by latency).
    """

    stage = Stage.ENCODE
    mean_bits: float = axis(
        32,
        choice(32, 8, 6, 5, 4, 3, 2),
        unit="bits per weight on average",
        short="mean {value} bit",
    )
    granularity: str = axis("automatic", choice("automatic"), unit="weights sharing a scale")
    """Below 8 bits: channel, group (64 inputs), or automatic, groups in linear layers only."""
    symmetric: bool = False
    """Below 8 bits: no zero points."""
    latency: bool = True
    """Whether layers are timed, once a run, runtime and kind of layer, and their times count."""

    def __post_init__(self) -> None:
        if self.mean_bits != 32 and not 2 <= self.mean_bits <= 8:
            raise ValueError(f"mean_bits must be 32 or from 2 to 8, got {self.mean_bits}")
        if self.granularity not in ("automatic", "channel", "group"):
            raise ValueError(
                f"granularity must be automatic, channel or group, got {self.granularity!r}"
            )

    def plan(self, plan: Plan) -> Plan:
        """Ask for these bits, and for training to keep to them."""
        if self.mean_bits == 32:
            return plan
        asked = {
            "mean_bits": self.mean_bits,
            "granularity": self.granularity,
            "symmetric": self.symmetric,
        }
        encoding = dataclasses.replace(plan.encoding, **asked)  # type: ignore[arg-type]
        plan = dataclasses.replace(plan, encoding=encoding)
        return constrained(plan, Grid(**asked))  # type: ignore[arg-type]

    def prepare(self, model: nn.Module, plan: Plan, tools: Tools) -> Prepared:
        """Settle the bits of each weight, which training and encoding then keep to."""
        if self.mean_bits == 32:
            return Prepared(plan=plan)
        times, reason = self._times(model, plan, tools)
        counted = times.of(WIDTHS) if times and not reason else {}
        there = copy.deepcopy(model).to(tools.device)
        with device_of(tools.device).exact():
            best = allocation(there, tools.task, plan.encoding, counted)
        return Prepared(plan=allotted(plan, best.bits), facts=_facts(best, times, reason))

    def _times(self, model: nn.Module, plan: Plan, tools: Tools) -> tuple[Times | None, str | None]:
        """Return the times of the layers, and why they do not count, None if they do."""
        if not self.latency:
            return None, "quantize.mixed.latency is false"
        uses = kinds(model, tools.example)
        counts = Counter(kind for own in uses.values() for kind in own)
        busiest = sorted(counts, key=lambda kind: -counts[kind] * kind.work)[:MOST]
        by_bits = {bits: _alone(plan.encoding, bits) for bits in WIDTHS}
        try:
            alone = tools.time_alone(busiest, list(by_bits.values()))
        except Untimed as error:
            return None, str(error)
        if not alone:
            return None, f"{plan.runtime} unpacks weights of any width when it loads them"
        table = {
            kind: {bits: alone[kind][encoding] for bits, encoding in by_bits.items()}
            for kind in busiest
            if kind in alone
        }
        times = Times(uses=uses, table=table)
        return (
            times,
            None if times.differ() else f"no layer's time depends on bits in {plan.runtime}",
        )

    def canonical(self) -> Self:
        """Return the setting without a grid that nothing uses."""
        if self.mean_bits == 32:
            return dataclasses.replace(self, granularity="automatic")
        return self

    def usual(self) -> tuple[Self, ...]:
        """Return 4 bits on average, which most networks bear, and 6."""
        return tuple(dataclasses.replace(self, mean_bits=bits) for bits in (4, 6))


def _alone(encoding: Encoding, bits: int) -> Encoding:
    """Return the encoding of a layer alone: it does not depend on the bits that others get."""
    return dataclasses.replace(encoding, mean_bits=max(WIDTHS), widths=((WEIGHT, bits),))


def _facts(best: Allocation, times: Times | None, reason: str | None) -> dict[str, Any]:
    """Return what the bits follow from, for the record."""
    facts: dict[str, Any] = {"by": "loss" if reason else "loss and latency"}
    if reason:
        facts["reason"] = reason
    else:
        facts["predicted_ms"] = round(best.predicted, 4)
        facts["one_width"] = {"bits": best.width, "predicted_ms": round(best.single, 4)}
    if times:
        uses = Counter(kind for own in times.uses.values() for kind in own)
        facts["layers"] = [
            {"kind": str(kind), "count": uses[kind], "ms": _milliseconds(row)}
            for kind, row in times.table.items()
        ]
    return facts


def _milliseconds(row: Mapping[int, Time]) -> dict[str, list[float]]:
    """Return a layer's times by bits, each with its interval, in three figures."""
    return {
        str(bits): [float(f"{v:.3g}") for v in (time.value, time.low, time.high)]
        for bits, time in row.items()
    }
