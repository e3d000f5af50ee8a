"""The picture of the front as a PNG, for a README or a slide."""

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
    colours,
    frame,
    label,
    placed,
    plane,
    radii,
    staircase,
    ticks,
)
from search.reporting.summary import Summary
from search.reporting.wording import quantity, title

INK, GREY, FAINT = "#1F2933", "#6B7780", "#E4E7EB"


def draw(summary: Summary, path: Path) -> int:
    """Write the picture to `path`, 1600 x 1000 pixels; return how many records it shows."""
    picture(summary).savefig(path)
    return len(placed(summary))


def picture(summary: Summary) -> Figure:
    """Return the picture."""
    here = plane(summary.axes)
    figure = Figure(figsize=(10, 6.25), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.115, 0.885, 0.70))
    _scales(axes, summary, here)
    _bound(axes, summary, here)
    _outline(axes, summary, here)
    _points(axes, summary, here)
    _headings(figure, axes, summary, here)
    figure.canvas.draw()
    _names(axes, summary, here)
    return figure


def _scales(axes: Any, summary: Summary, here: Plane) -> None:
    across, up, _ = frame(summary, here)
    if here.log:
        axes.set_xscale("log")
        axes.set_xticks(ticks(*across))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(*across)
    axes.set_ylim(*up)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=10.5, labelcolor=GREY, pad=6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.set_xlabel(label(here.x), fontsize=11.5, color=INK, labelpad=8, loc="left")
    axes.set_ylabel(label(here.y), fontsize=11.5, color=INK, labelpad=10, loc="top")


def _bound(axes: Any, summary: Summary, here: Plane) -> None:
    if here.y.name not in summary.bounds:
        return
    value = summary.bounds[here.y.name]
    axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (5, 4)), zorder=1.5)
    text = f"limit {quantity(value, here.y.unit)}"
    axes.text(
        0.995, value, text, transform=axes.get_yaxis_transform(), ha="right", va="bottom",
        fontsize=9.5, color=GREY,
    )  # fmt: skip


def _outline(axes: Any, summary: Summary, here: Plane) -> None:
    corners = staircase(here, summary.front)
    if len(corners) > 1:
        where = "post" if ascending(here) else "pre"
        x, y = zip(*corners, strict=True)
        axes.step(x, y, where=where, color=INK, linewidth=1.3, alpha=0.55, zorder=2)


def _points(axes: Any, summary: Summary, here: Plane) -> None:
    pairs = placed(summary)
    paint = colours(r for r, _ in pairs)
    size = radii(here, [r for r, _ in pairs], 6, 18)
    for record, role in pairs:
        if record.trial == summary.baseline.trial:
            continue
        x, y = here.at(record)
        style: dict[str, Any] = {"color": paint[record.runtime], "markersize": size[record.trial]}
        if role == "front":
            style |= {"marker": "o", "mec": "white", "mew": 1.0, "zorder": 4}
            _bars(axes, record, here)
        elif role == "dominated":
            style |= {"marker": "o", "alpha": 0.22, "mew": 0, "zorder": 3}
        else:
            style |= {"marker": "x", "alpha": 0.45, "markersize": 6, "mew": 1.3, "zorder": 3}
        axes.plot([x], [y], linestyle="none", **style)
    x, y = here.at(summary.baseline)
    axes.plot([x], [y], "D", color=INK, markersize=10, mec="white", mew=1.2, zorder=5)


def _bars(axes: Any, record: Record, here: Plane) -> None:
    x, y = here.at(record)
    style = {"color": INK, "linewidth": 0.9, "alpha": 0.45, "zorder": 3.5}
    up = record.measurements[here.y.name]
    axes.plot([x, x], [up.low, up.high], **style)
    if here.x is not None:
        across = record.measurements[here.x.name]
        axes.plot([across.low, across.high], [y, y], **style)


def _headings(figure: Any, axes: Any, summary: Summary, here: Plane) -> None:
    figure.text(0.03, 0.945, _plain(summary.name)[:70], fontsize=16, weight="bold", color=INK)
    figure.text(0.03, 0.897, f"Knee of the front: {title(summary)}" if summary.front
                else title(summary), fontsize=11.5, color=GREY)  # fmt: skip
    paint = colours(r for r, _ in placed(summary))
    marks = [_mark("o", colour, name) for name, colour in paint.items()]
    marks.append(_mark("D", INK, f"baseline ({_plain(summary.baseline.runtime)})"))
    marks.append(_mark("o", GREY, "dominated", alpha=0.35))
    if any(role == "over limit" for _, role in placed(summary)):
        marks.append(_mark("x", GREY, "breaks a limit"))
    columns = len(marks) if len(marks) <= 7 else math.ceil(len(marks) / 2)
    if columns < len(marks):
        axes.set_position((0.085, 0.115, 0.885, 0.675))
    axes.legend(
        handles=marks, loc="lower left", bbox_to_anchor=(-0.012, 1.0), ncols=columns,
        frameon=False, fontsize=10, labelcolor=INK, handletextpad=0.2, labelspacing=0.35,
        columnspacing=1.5,
    )  # fmt: skip
    hidden = frame(summary, here)[2]
    notes = [f"marker area = {here.size.name}"] if here.size else []
    notes += ["bars = 95 % intervals"] if summary.front else []
    notes += [f"{hidden} poor trials lie outside the frame"] if hidden else []
    figure.text(0.97, 0.025, " · ".join(notes), fontsize=9, color=GREY, ha="right")


def _mark(marker: str, colour: str, name: str, alpha: float = 1.0) -> Line2D:
    return Line2D(
        [], [], marker=marker, label=_plain(name), color=colour, alpha=alpha, markersize=8,
        markeredgewidth=1.3 if marker == "x" else 0, linestyle="none",
    )  # fmt: skip


def _names(axes: Any, summary: Summary, here: Plane) -> None:
    """Write the picks' names beside their points."""
    words: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        words.setdefault(record.trial, []).append(word.replace("-", " "))
    members = {r.trial: r for r in summary.front}
    names = [
        (here.at(members[trial]), f"{', '.join(picks)}\n{_values(members[trial], here)}")
        for trial, picks in words.items()
    ]
    dots = [here.at(r) for r, _ in placed(summary)]
    png_labels.write(axes, names, dots, list(_lines(axes, summary, here)), INK, GREY)


def _lines(axes: Any, summary: Summary, here: Plane) -> Iterator[list[tuple[float, float]]]:
    """Yield the lines that a name should not cover, each as its corners."""
    for record in summary.front:
        bar = record.measurements[here.y.name]
        yield [(here.at(record)[0], end) for end in (bar.low, bar.high)]
    for (x0, y0), (x1, y1) in itertools.pairwise(staircase(here, summary.front)):
        yield [(x0, y0), (x1, y0) if ascending(here) else (x0, y1), (x1, y1)]
    if here.y.name in summary.bounds:
        yield [(x, summary.bounds[here.y.name]) for x in axes.get_xlim()]


def _values(record: Record, here: Plane) -> str:
    shown = [axis for axis in (here.x, here.y) if axis is not None]
    return ", ".join(quantity(axis.value(record), axis.unit) for axis in shown)


def _plain(text: str) -> str:
    """Return user text without the sign that would start a formula."""
    return text.replace("$", r"\$")
