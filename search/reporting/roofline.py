"""Roofline of a report: operations a second that artifacts reach, beneath the host's ceilings."""

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from objectives import Work
from search.records import Axis, Record
from search.reporting.charts import GREY, INK, blank
from search.reporting.layout import colours, ticks
from search.reporting.summary import Summary
from search.reporting.wording import figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attained:
    """Rates of one artifact, and the ceilings for its work on all devices that share a batch."""

    record: Record
    work: Work
    seconds: float
    """Time of a batch, the median of its runs where the latency is a higher percentile."""
    peak: float
    """Operations a second of the fastest product in its type."""
    bandwidth: float
    """Bytes a second of the fastest copy of as many bytes."""

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.work.operations / self.seconds

    @property
    def share(self) -> float:
        """Rate as a share of the one that the roofline allows."""
        return self.rate / min(self.peak, self.bandwidth * self.work.intensity)


def attained(summary: Summary) -> list[Attained]:
    """Return the rates of the baseline and the front, as far as time and ceilings are known."""
    axis = next((a for a in summary.axes if a.is_time and a.unit == "ms"), None)
    if axis is None or not summary.has_baseline:
        return []
    others = [r for r in summary.front if r.trial != summary.baseline.trial]
    return [a for r in (summary.baseline, *others) if (a := _of(r, axis))]


def _of(record: Record, axis: Axis) -> Attained | None:
    facts = record.facts
    if not facts.work or not facts.ceilings:
        return None
    sharing = facts.placement or {}
    devices = sharing.get("devices", 1) if sharing.get("strategy", "data") != "data" else 1
    return Attained(
        record=record,
        work=Work.from_json(facts.work),
        seconds=1e-3 * min(axis.value(record), (facts.percentiles or {}).get("50", math.inf)),
        peak=devices * facts.ceilings["operations"],
        bandwidth=devices * facts.ceilings["bytes"],
    )


def exceeding(points: Iterable[Attained]) -> str:
    """Return a sentence about artifacts above their ceilings; empty if there are none."""
    names = [f"trial {p.record.trial} ({p.share:.0%})" for p in points if p.share > 1]
    if not names:
        return ""
    return (
        f"Above its ceiling: {', '.join(names)}. The host was slower when its ceilings were "
        "measured, or the runtime has faster kernels than PyTorch."
    )


def chart(summary: Summary, points: Sequence[Attained]) -> Any:
    """Return the roofline: operations a second over operations per byte, both logarithmic.

    Source: Williams et al. 2009, Roofline: an insightful visual performance model for multicore
    architectures, figure 1.
    """
    figure = blank(height=420)
    corners = [x for p in points for x in (p.work.intensity, p.peak / p.bandwidth)]
    low, high = min(corners) / 3, 3 * max(corners)
    for (precision, peak, bandwidth), kind in _roofs(points).items():
        ridge = peak / bandwidth
        xs = (low, ridge, high)
        figure.add_scatter(
            x=xs, y=[1e-9 * min(peak, bandwidth * x) for x in xs], mode="lines", hoverinfo="skip",
            line={"color": GREY, "width": 1.5, "dash": kind},
            name=f"{html.escape(precision)}: {_rates(peak, bandwidth)}",
        )  # fmt: skip
    colour_of = colours(p.record for p in points)
    for point in points:
        figure.add_trace(_marker(summary, point, colour_of[point.record.runtime]))
    title = "Operations per byte of weights, inputs and outputs"
    rates = [1e-9 * rate for p in points for rate in (p.rate, p.peak, p.bandwidth * low)]
    figure.update_xaxes(title={"text": title}, **_logarithmic(low, high))
    title = "10⁹ operations a second"
    figure.update_yaxes(title={"text": title}, **_logarithmic(min(rates) / 2, 2 * max(rates)))
    return figure


def _logarithmic(low: float, high: float) -> dict[str, Any]:
    """Return the settings of a logarithmic axis from `low` to `high`."""
    marks = ticks(low, high)
    return {
        "type": "log",
        "range": (math.log10(low), math.log10(high)),
        "tickvals": marks,
        "ticktext": [f"{mark:g}" for mark in marks],
    }


def _roofs(points: Sequence[Attained]) -> dict[tuple[str, float, float], str]:
    """Return the distinct ceilings with a type of line for each."""
    roofs = dict.fromkeys((p.work.precision, p.peak, p.bandwidth) for p in points)
    kinds = ("solid", "dash", "dot", "dashdot")
    return {roof: kinds[i % len(kinds)] for i, roof in enumerate(roofs)}


def _rates(peak: float, bandwidth: float) -> str:
    return f"{figures(peak / 1e9)} Gop/s, {figures(bandwidth / 1e9)} GB/s"


def _marker(summary: Summary, point: Attained, colour: str) -> Any:
    record = point.record
    is_baseline = record.trial == summary.baseline.trial
    share = f"{point.share:.0%} of its ceiling"
    lines = [
        f"<b>Trial {record.trial}</b> · {html.escape(record.runtime)}",
        html.escape(summary.short(record)),
        f"{figures(point.rate / 1e9)} Gop/s, {share} in {html.escape(point.work.precision)}",
        f"{figures(point.work.operations / 1e6)} Mop, {figures(point.work.bytes / 1e6)} MB a batch",
    ]
    return go.Scatter(
        x=[point.work.intensity], y=[1e-9 * point.rate], mode="markers+text", showlegend=False,
        marker={"color": INK if is_baseline else colour, "size": 13,
                "symbol": "diamond" if is_baseline else "circle",
                "line": {"color": "white", "width": 1.5}},
        text=[f"{record.trial}: {point.share:.0%}"], textposition="bottom center",
        textfont={"size": 11, "color": GREY}, hovertext=["<br>".join(lines)],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
