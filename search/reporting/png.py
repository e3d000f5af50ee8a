"""The main chart as a PNG, for a README or a slide."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from search.records import Record
from search.reporting import png_labels
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
from search.reporting.wording import quantity, title

INK, GREY, FAINT = "#1F2933", "#6B7780", "#E4E7EB"


def draw(summary: Summary, path: Path) -> int:
    """Write the chart to `path`, 1600 x 1000 pixels; return the number of records drawn."""
    picture(summary).savefig(path)
    return len(plotted(summary))


def picture(summary: Summary) -> Figure:
    """Return the chart."""
    plane = plane_of(summary.axes)
    figure = Figure(figsize=(10, 6.25), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.115, 0.885, 0.70))
    _scales(axes, summary, plane)
    _bound(axes, summary, plane)
    _outline(axes, summary, plane)
    _points(axes, summary, plane)
    _headings(figure, axes, summary, plane)
    figure.canvas.draw()
    _names(axes, summary, plane)
    return figure


def _scales(axes: Any, summary: Summary, plane: Plane) -> None:
    x_range, y_range, _ = axis_ranges(summary, plane)
    if plane.log:
        axes.set_xscale("log")
        axes.set_xticks(ticks(*x_range))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(*x_range)
    axes.set_ylim(*y_range)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=GREY, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.set_xlabel(axis_title(plane.x), fontsize=11.5, color=INK, labelpad=8, loc="left")
    axes.set_ylabel(axis_title(plane.y), fontsize=11.5, color=INK, labelpad=10, loc="top")


def _bound(axes: Any, summary: Summary, plane: Plane) -> None:
    if plane.y.name not in summary.bounds:
        return
    value = summary.bounds[plane.y.name]
    axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (5, 4)), zorder=1.5)
    text = f"limit {quantity(value, plane.y.unit)}"
    axes.text(
        0.995, value, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom",
        fontsize=9.5, color=GREY,
    )  # fmt: skip


def _outline(axes: Any, summary: Summary, plane: Plane) -> None:
    corners = staircase(plane, summary.front)
    if len(corners) > 1:
        where = "post" if ascending(plane) else "pre"
        x, y = zip(*corners, strict=True)
        axes.step(x, y, where=where, color=INK, linewidth=1.3, alpha=0.55, zorder=2)


def _points(axes: Any, summary: Summary, plane: Plane) -> None:
    pairs = plotted(summary)
    colour_of = colours(r for r, _ in pairs)
    sizes = diameters(plane, [r for r, _ in pairs], 6, 18)
    for record, role in pairs:
        if record.trial == summary.baseline.trial:
            continue
        x, y = plane.position(record)
        style: dict[str, Any] = {
            "color": colour_of[record.runtime],
            "markersize": sizes[record.trial],
        }
        if role == "front":
            style |= {"marker": "o", "mec": "white", "mew": 1.0, "zorder": 4}
            _bars(axes, record, plane)
        elif role == "dominated":
            style |= {"marker": "o", "alpha": 0.22, "mew": 0, "zorder": 3}
        else:
            style |= {"marker": "x", "alpha": 0.45, "markersize": 6, "mew": 1.3, "zorder": 3}
        axes.plot([x], [y], linestyle="none", **style)
    x, y = plane.position(summary.baseline)
    axes.plot([x], [y], "D", color=INK, markersize=10, mec="white", mew=1.2, zorder=5)


def _bars(axes: Any, record: Record, plane: Plane) -> None:
    x, y = plane.position(record)
    style = {"color": INK, "linewidth": 0.9, "alpha": 0.45, "zorder": 3.5}
    y_measurement = record.measurements[plane.y.name]
    axes.plot([x, x], [y_measurement.low, y_measurement.high], **style)
    if plane.x is not None:
        x_measurement = record.measurements[plane.x.name]
        axes.plot([x_measurement.low, x_measurement.high], [y, y], **style)


def _headings(figure: Any, axes: Any, summary: Summary, plane: Plane) -> None:
    figure.text(0.03, 0.945, _plain(summary.name)[:70], fontsize=16, weight="bold", color=INK)
    figure.text(0.03, 0.897, f"Knee of the front: {title(summary)}" if summary.front
                else title(summary), fontsize=11.5, color=GREY)  # fmt: skip
    colour_of = colours(r for r, _ in plotted(summary))
    marks = [_mark("o", colour, name) for name, colour in colour_of.items()]
    marks.append(_mark("D", INK, f"baseline ({_plain(summary.baseline.runtime)})"))
    marks.append(_mark("o", GREY, "dominated", alpha=0.35))
    if any(role == "over limit" for _, role in plotted(summary)):
        marks.append(_mark("x", GREY, "breaks a limit"))
    columns = len(marks) if len(marks) <= 7 else math.ceil(len(marks) / 2)
    if columns < len(marks):
        axes.set_position((0.085, 0.115, 0.885, 0.675))
    axes.legend(
        handles=marks, loc="lower left", bbox_to_anchor=(-0.012, 1.0), ncols=columns,
        frameon=False, fontsize=10, labelcolor=INK, handletextpad=0.2, labelspacing=0.35,
        columnspacing=1.5,
    )  # fmt: skip
    hidden = axis_ranges(summary, plane)[2]
    notes = [f"marker area = {plane.size.name}"] if plane.size else []
    notes += ["bars = 95 % intervals"] if summary.front else []
    notes += [f"poor trials outside the frame: {hidden}"] if hidden else []
    figure.text(0.97, 0.025, " · ".join(notes), fontsize=9, color=GREY, ha="right")


def _mark(marker: str, colour: str, name: str, alpha: float = 1.0) -> Line2D:
    return Line2D(
        [], [], marker=marker, label=_plain(name), color=colour, alpha=alpha, markersize=8,
        markeredgewidth=1.3 if marker == "x" else 0, linestyle="none",
    )  # fmt: skip


def _names(axes: Any, summary: Summary, plane: Plane) -> None:
    """Write the names of the picks beside their points."""
    words: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        words.setdefault(record.trial, []).append(word.replace("-", " "))
    members = {r.trial: r for r in summary.front}
    names = [
        (plane.position(members[trial]), f"{', '.join(picks)}\n{_values(members[trial], plane)}")
        for trial, picks in words.items()
    ]
    dots = [plane.position(r) for r, _ in plotted(summary)]
    png_labels.write(axes, names, dots, list(_lines(axes, summary, plane)), INK, GREY)


def _lines(axes: Any, summary: Summary, plane: Plane) -> Iterator[list[tuple[float, float]]]:
    """Yield the lines that a name should not cover, each as a list of corners."""
    for record in summary.front:
        bar = record.measurements[plane.y.name]
        yield [(plane.position(record)[0], end) for end in (bar.low, bar.high)]
    for (x0, y0), (x1, y1) in itertools.pairwise(staircase(plane, summary.front)):
        yield [(x0, y0), (x1, y0) if ascending(plane) else (x0, y1), (x1, y1)]
    if plane.y.name in summary.bounds:
        yield [(x, summary.bounds[plane.y.name]) for x in axes.get_xlim()]


def _values(record: Record, plane: Plane) -> str:
    shown = [axis for axis in (plane.x, plane.y) if axis is not None]
    return ", ".join(quantity(axis.value(record), axis.unit) for axis in shown)


def _plain(text: str) -> str:
    """Return user text with the sign escaped that would start a formula."""
    return text.replace("$", r"\$")
