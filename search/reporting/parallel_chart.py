"""Parallel coordinates of the report: points of trials joined with their results."""

import html
from collections.abc import Sequence
from typing import Any

from search.records import Axis, Record
from search.reporting.charts import INK, blank, hover
from search.reporting.layout import colours, plotted
from search.reporting.summary import Summary
from search.reporting.wording import quantity
from spaces import Value


def parallel_coordinates(summary: Summary) -> Any | None:
    """Return a chart with a column for each dimension and objective; None with one trial.

    Drawn with ordinary lines: Plotly's own chart type needs WebGL, which a report opened in a
    restricted frame may not have.
    """
    records = [r for r, _ in plotted(summary)]
    names = [n for n in summary.dimensions if len({r.point.get(n) for r in records}) > 1]
    if not names or len(records) < 2:
        return None
    columns = [_ranked([r.point.get(n, "") for r in records]) for n in names]
    columns += [_scaled([a.value(r) for r in records], a) for a in summary.axes]
    titles = [html.escape(n.split(".", 1)[-1]).replace(".", "<br>") for n in names]
    titles = [title.replace("_", " ") for title in titles]
    titles += [f"<b>{html.escape(a.name)}</b>" for a in summary.axes]
    figure = blank(height=380)
    _lines(figure, summary, records, [heights for heights, _ in columns])
    _rulers(figure, titles, [marks for _, marks in columns])
    figure.update_xaxes(visible=False, range=(-0.5, len(columns) - 0.7))
    figure.update_yaxes(visible=False, range=(-0.06, 1.22))
    return figure


def _rulers(figure: Any, titles: Sequence[str], columns: Sequence[list[tuple[float, str]]]) -> None:
    """Draw a vertical line with marks and a title for each column."""
    line = {"color": "#9AA5B1", "width": 1}
    notes: list[dict[str, Any]] = []
    for i, (title, marks) in enumerate(zip(titles, columns, strict=True)):
        notes.append({"x": i, "y": 1.07, "text": title, "showarrow": False, "yanchor": "bottom"})
        for height, text in marks:
            notes.append({
                "x": i, "y": height, "text": html.escape(text), "showarrow": False, "xshift": -5,
                "xanchor": "right", "font": {"size": 11, "color": INK}, "borderpad": 1,
                "bgcolor": "rgba(255,255,255,0.8)",
            })  # fmt: skip
    shapes = [{"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": line, "layer": "below"}
              for i in range(len(titles))]  # fmt: skip
    figure.update_layout(annotations=notes, shapes=shapes)


def _lines(
    figure: Any, summary: Summary, records: Sequence[Record], columns: list[list[float]]
) -> None:
    rows = list(zip(*columns, strict=True))
    colour_of = colours(records)
    members = {r.trial for r in summary.front}
    positions = list(range(len(columns)))
    others = [row for r, row in zip(records, rows, strict=True) if r.trial not in members]
    figure.add_scatter(
        x=[x for _ in others for x in (*positions, None)],
        y=[y for row in others for y in (*row, None)],
        mode="lines", line={"color": "#9AA5B1", "width": 1}, opacity=0.3, name="others",
        hoverinfo="skip",
    )  # fmt: skip
    named: set[str] = set()
    for record, row in zip(records, rows, strict=True):
        if record.trial in members:
            figure.add_scatter(
                x=positions, y=row, mode="lines", text=[hover(record, summary)] * len(row),
                line={"color": colour_of[record.runtime], "width": 2},
                name=html.escape(record.runtime),
                hovertemplate="%{text}<extra></extra>", legendgroup=record.runtime,
                showlegend=record.runtime not in named,
            )  # fmt: skip
            named.add(record.runtime)


def _ranked(values: list[Value]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return evenly spaced heights from 0 to 1 for the distinct values, and their marks."""
    distinct = sorted(set(values), key=lambda v: (isinstance(v, str), v))
    top = max(len(distinct) - 1, 1)
    heights = {value: i / top for i, value in enumerate(distinct)}
    marked = distinct if len(distinct) <= 10 else [distinct[0], distinct[-1]]
    marks = [(heights[v], v if isinstance(v, str) else f"{v:.4g}") for v in marked]
    return [heights[v] for v in values], marks


def _scaled(values: list[float], axis: Axis) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights from 0 to 1, of which the upper are better, and marks at both ends."""
    losses = sorted(axis.sign * v for v in values)
    worst, best = losses[-1], losses[0]
    extent = (worst - best) or 1.0
    heights = [(worst - axis.sign * v) / extent for v in values]
    ends = [(1.0, quantity(axis.sign * best, axis.unit))]
    return heights, ends + ([(0.0, quantity(axis.sign * worst, axis.unit))] if worst > best else [])
