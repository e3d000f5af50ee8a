"""Charts of the HTML report: the trade-offs, and the progress over the trials."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from search.records import Axis, Record, hypervolume_history
from search.reporting.layout import (
    Plane,
    ascending,
    axis_ranges,
    axis_title,
    colours,
    diameters,
    plane_of,
    plotted,
    staircase,
    ticks,
)
from search.reporting.summary import Summary
from search.reporting.wording import change, interval, quantity, size_told

INK, GREY, FAINT = "#1F2933", "#6B7780", "#E4E7EB"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def tradeoffs(summary: Summary) -> Any:
    """Return the chart of all measured records in the plane of the two main axes."""
    plane = plane_of(summary.axes)
    figure = blank(height=560)
    corners = staircase(plane, summary.front)
    shape = "hv" if ascending(plane) else "vh"
    figure.add_scatter(
        x=[x for x, _ in corners], y=[y for _, y in corners], mode="lines", hoverinfo="skip",
        line={"color": INK, "width": 1.5, "shape": shape}, opacity=0.5, name="outline of the front",
        showlegend=len(corners) > 1,
    )  # fmt: skip
    for trace in _markers(summary, plane):
        figure.add_trace(trace)
    _frame(figure, summary, plane)
    return figure


def _markers(summary: Summary, plane: Plane) -> list[Any]:
    """Return a trace for each runtime and role, and one for the baseline."""
    pairs = [(r, role) for r, role in plotted(summary) if r.trial != summary.baseline.trial]
    colour_of = colours(r for r, _ in plotted(summary))
    sizes = diameters(plane, [r for r, _ in pairs], 9, 30)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record, role in pairs:
        groups.setdefault((role, record.runtime), []).append(record)
    named: set[str] = set()
    traces = []
    for (role, runtime), records in reversed(sorted(groups.items(), key=_order)):
        style = _style(role, colour_of[runtime], [sizes[r.trial] for r in records])
        trace = _scatter(records, summary, plane, role, style)
        trace.update(name=html.escape(runtime), legendgroup=runtime)
        trace.update(showlegend=runtime not in named)
        named.add(runtime)
        traces.append(trace)
    base = _scatter([summary.baseline], summary, plane, "baseline", _style("baseline", INK, [15]))
    base.update(name=f"baseline ({html.escape(summary.baseline.runtime)})")
    return [*reversed(traces), base]


def _order(group: tuple[tuple[str, str], list[Record]]) -> tuple[int, str]:
    role, runtime = group[0]
    return ("over limit", "dominated", "front").index(role), runtime


def _style(role: str, colour: str, sizes: Sequence[float]) -> dict[str, Any]:
    style: dict[str, Any] = {"color": colour, "size": list(sizes), "opacity": 1.0}
    if role == "front":
        return style | {"line": {"color": "white", "width": 1.5}}
    if role == "dominated":
        return style | {"opacity": 0.25, "line": {"width": 0}}
    if role == "baseline":
        return style | {"symbol": "diamond", "line": {"color": "white", "width": 1.5}}
    return style | {"symbol": "x-thin", "size": 9, "opacity": 0.6,
                    "line": {"color": colour, "width": 2}}  # fmt: skip


def _scatter(
    records: Sequence[Record], summary: Summary, plane: Plane, role: str, style: dict[str, Any]
) -> Any:
    trace = go.Scatter(
        x=[plane.position(r)[0] for r in records], y=[plane.position(r)[1] for r in records],
        mode="markers", marker=style, text=[hover(r, summary) for r in records], meta=role,
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    if role == "front":
        trace.update(error_y=_bars(records, plane.y))
        if plane.x is not None:
            trace.update(error_x=_bars(records, plane.x))
    return trace


def _bars(records: Sequence[Record], axis: Axis) -> dict[str, Any]:
    measurements = [r.measurements[axis.name] for r in records]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(m.high - m.value, 0.0) for m in measurements],
        "arrayminus": [max(m.value - m.low, 0.0) for m in measurements],
        "thickness": 1,
        "width": 0,
        "color": "rgba(31, 41, 51, 0.4)",
    }


def hover(record: Record, summary: Summary) -> str:
    """Return the hover text of a record as HTML lines; user text is escaped."""
    lines = [f"<b>Trial {record.trial}</b> · {html.escape(record.runtime)}"]
    lines.append(html.escape(summary.short(record)))
    for axis in summary.axes:
        comparison = change(record, axis, summary.baseline)
        suffix = "" if record.trial == summary.baseline.trial else f", {comparison}"
        suffix = ", as the baseline" if suffix == ", same" else suffix
        name = html.escape(axis.name.capitalize())
        lines.append(f"{name} {html.escape(interval(record.measurements[axis.name]))}{suffix}")
    if size := size_told(record, summary):
        lines.append(", ".join(filter(None, [f"Size {size[0]}", size[1]])))
    lines += [f"Test {html.escape(n)} {interval(m)}" for n, m in record.test.items()]
    return "<br>".join(lines)


def _frame(figure: Any, summary: Summary, plane: Plane) -> None:
    x_range, y_range, _ = axis_ranges(summary, plane)
    figure.update_yaxes(range=y_range, title={"text": axis_title(plane.y), "standoff": 14})
    figure.update_xaxes(title={"text": axis_title(plane.x), "standoff": 12})
    if plane.log:
        marks = ticks(*x_range)
        figure.update_xaxes(type="log", tickvals=marks, ticktext=[f"{v:g}" for v in marks])
        figure.update_xaxes(autorange=True)
    if plane.y.name in summary.bounds:
        value = summary.bounds[plane.y.name]
        figure.add_hline(
            value, line={"color": GREY, "width": 1, "dash": "dash"}, layer="below",
            annotation={"text": f"limit {quantity(value, plane.y.unit)}", "font_color": GREY},
            annotation_position="top right",
        )  # fmt: skip


def progress(summary: Summary) -> Any:
    """Return the chart of the hypervolume after each trial."""
    records = summary.records
    history = hypervolume_history(records, summary.axes, summary.baseline)
    figure = blank(height=300)
    figure.add_scatter(
        x=[r.trial for r in records], y=history, mode="lines", showlegend=False,
        line={"color": "#0072B2", "width": 2, "shape": "hv"},
        hovertemplate="after trial %{x}: %{y:.2f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="Trial", rangemode="nonnegative")
    figure.update_yaxes(title="Hypervolume, baseline = 1", rangemode="tozero")
    return figure


def blank(height: int) -> Any:
    """Return an empty figure in the report's style; `height` is in pixels."""
    figure = go.Figure()
    axis = {
        "gridcolor": FAINT,
        "linecolor": GREY,
        "zeroline": False,
        "tickfont": {"color": GREY},
        "automargin": True,
    }
    figure.update_layout(
        template="none", height=height, margin={"l": 70, "r": 24, "t": 44, "b": 56},
        font={"family": FONT, "size": 13, "color": INK}, hovermode="closest",
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom",
                "itemsizing": "constant"},
        hoverlabel={"bgcolor": "white", "bordercolor": "#CBD2D9", "align": "left",
                    "font": {"family": FONT, "size": 13, "color": INK}},
        xaxis={**axis, "showgrid": True}, yaxis={**axis, "showgrid": True},
    )  # fmt: skip
    return figure
