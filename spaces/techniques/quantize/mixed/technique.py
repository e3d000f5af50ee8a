"""The Mixed technique: measure sensitivity and times of layers and allocate bits to them."""

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
"""Largest number of kinds of layers that are timed, those with most work."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed(Technique):
    """Store weights in `mean_bits` on average, allocated to layers by their cost in the loss.

    Each layer gets 8, 6, 4, 3 or 2 bits. The cost of a width is measured on training data
    (Fisher-weighted output error), and the layer's time on the target, in the point's runtime; an
    integer programme finds the best allocation. The record contains it with the times. If these do
    not differ or cannot be measured, the loss alone counts, and the record says so. Source: Dong
    et al. 2020, HAWQ-V2, section 3 (allocation by sensitivity); Yao et al. 2021, HAWQ-V3,
    section 3 (and by latency).
    """

    stage = Stage.ENCODE
    mean_bits: float = axis(
        32,
        choice(32, 8, 6, 5, 4, 3, 2),
        unit="bits per weight on average",
        short="mean {value} bit",
    )
    granularity: str = axis("automatic", choice("automatic"), unit="weights sharing a scale")
    """Below 8 bits: channel, group (64 inputs), or automatic: groups in linear layers only."""
    symmetric: bool = False
    """Below 8 bits: no zero points."""
    latency: bool = True
    """Whether the times of layers count; each kind of layer is timed once per run and runtime."""

    def __post_init__(self) -> None:
        if self.mean_bits != 32 and not 2 <= self.mean_bits <= 8:
            raise ValueError(f"mean_bits must be 32 or from 2 to 8, got {self.mean_bits}")
        if self.granularity not in ("automatic", "channel", "group"):
            raise ValueError(
                f"granularity must be automatic, channel or group, got {self.granularity!r}"
            )

    def plan(self, plan: Plan) -> Plan:
        """Set the mean bits, and constrain training to them."""
        if self.mean_bits == 32:
            return plan
        fields = {
            "mean_bits": self.mean_bits,
            "granularity": self.granularity,
            "symmetric": self.symmetric,
        }
        encoding = dataclasses.replace(plan.encoding, **fields)  # type: ignore[arg-type]
        plan = dataclasses.replace(plan, encoding=encoding)
        return constrained(plan, Grid(**fields))  # type: ignore[arg-type]

    def prepare(self, model: nn.Module, plan: Plan, tools: Tools) -> Prepared:
        """Allocate bits to each weight, for training and encoding."""
        if self.mean_bits == 32:
            return Prepared(plan=plan)
        times, reason = self._times(model, plan, tools)
        milliseconds = times.of(WIDTHS) if times and not reason else {}
        copied = copy.deepcopy(model).to(tools.device)
        with device_of(tools.device).exact():
            best = allocation(copied, tools.task, plan.encoding, milliseconds)
        return Prepared(plan=allotted(plan, best.bits), facts=_facts(best, times, reason))

    def _times(self, model: nn.Module, plan: Plan, tools: Tools) -> tuple[Times | None, str | None]:
        """Return the times of the layers, and the reason why they do not count, None if they do."""
        if not self.latency:
            return None, "quantize.mixed.latency is false"
        uses = kinds(model, tools.example)
        counts = Counter(kind for users in uses.values() for kind in users)
        busiest = sorted(counts, key=lambda kind: -counts[kind] * kind.work)[:MOST]
        by_bits = {bits: _single_layer(plan.encoding, bits) for bits in WIDTHS}
        try:
            measured = tools.time_alone(busiest, list(by_bits.values()))
        except Untimed as error:
            return None, str(error)
        if not measured:
            return None, f"{plan.runtime} unpacks weights of any width when it loads them"
        table = {
            kind: {bits: measured[kind][encoding] for bits, encoding in by_bits.items()}
            for kind in busiest
            if kind in measured
        }
        times = Times(uses=uses, table=table)
        return (
            times,
            None if times.differ() else f"no layer's time depends on bits in {plan.runtime}",
        )

    def canonical(self) -> Self:
        """Return the setting with a neutral granularity if nothing is quantized."""
        if self.mean_bits == 32:
            return dataclasses.replace(self, granularity="automatic")
        return self

    def usual(self) -> tuple[Self, ...]:
        """Return 4 bits on average, which most networks tolerate, and 6."""
        return tuple(dataclasses.replace(self, mean_bits=bits) for bits in (4, 6))


def _single_layer(encoding: Encoding, bits: int) -> Encoding:
    """Return the encoding of a single layer, which is independent of the bits of others."""
    return dataclasses.replace(encoding, mean_bits=max(WIDTHS), widths=((WEIGHT, bits),))


def _facts(best: Allocation, times: Times | None, reason: str | None) -> dict[str, Any]:
    """Return the data for the record that explain the allocation."""
    facts: dict[str, Any] = {"by": "loss" if reason else "loss and latency"}
    if reason:
        facts["reason"] = reason
    else:
        facts["predicted_ms"] = round(best.predicted, 4)
        facts["one_width"] = {"bits": best.width, "predicted_ms": round(best.single, 4)}
    if times:
        uses = Counter(kind for users in times.uses.values() for kind in users)
        facts["layers"] = [
            {"kind": str(kind), "count": uses[kind], "ms": _milliseconds(row)}
            for kind, row in times.table.items()
        ]
    return facts


def _milliseconds(row: Mapping[int, Time]) -> dict[str, list[float]]:
    """Return a layer's times by bits, each with its interval, to three significant digits."""
    return {
        str(bits): [float(f"{v:.3g}") for v in (time.value, time.low, time.high)]
        for bits, time in row.items()
    }
