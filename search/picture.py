"""The picture of the front as a PNG, for a README or a slide."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from search.plane import (
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
from search.record import Record
from search.summary import Summary, title
from search.wording import quantity

INK, GREY, FAINT = "#1F2933", "#6B7780", "#E4E7EB"


def draw(summary: Summary, path: Path) -> int:
    """Write the picture to `path`, 1600 x 1000 pixels; return how many records it shows."""
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
    figure.savefig(path)
    return len(placed(summary))


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
    """Write the picks' names beside their points, each where it covers the least."""
    words: dict[int, list[str]] = {}
    for word, record in summary.picked.items():
        words.setdefault(record.trial, []).append(word.replace("-", " "))
    drawn = [axes.transData.transform(point) for point in _drawn(summary, here)]
    taken: list[Any] = []
    members = {r.trial: r for r in summary.front}
    for trial, names in words.items():
        text = f"{', '.join(names)}\n{_values(members[trial], here)}"
        taken.append(_write(axes, here.at(members[trial]), text, drawn, taken))


def _drawn(summary: Summary, here: Plane) -> list[tuple[float, float]]:
    """Return points of everything that a name should not cover."""
    points = [here.at(r) for r, _ in placed(summary)]
    for record in summary.front:
        bar = record.measurements[here.y.name]
        points += [(here.at(record)[0], y) for y in np.linspace(bar.low, bar.high, 7)]
    corners = staircase(here, summary.front)
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        flat, upright = (y0, x1) if ascending(here) else (y1, x0)
        points += [(x, flat) for x in np.linspace(x0, x1, 30)]
        points += [(upright, y) for y in np.linspace(y0, y1, 30)]
    if here.y.name in summary.bounds:
        across = [x for x, _ in points]
        level = summary.bounds[here.y.name]
        points += [(x, level) for x in np.linspace(min(across), max(across), 200)]
    return points


def _values(record: Record, here: Plane) -> str:
    shown = [axis for axis in (here.x, here.y) if axis is not None]
    return ", ".join(quantity(axis.value(record), axis.unit) for axis in shown)


def _write(axes: Any, at: tuple[float, float], text: str, drawn: Any, taken: list[Any]) -> Any:
    heights = (14, -14, 0, 34, -34, 60, -60, 90, -90)
    spots = [(dx, dy) for dx in (14, -14, 44, -44) for dy in heights]
    note = axes.annotate(
        text, at, (16, 18), textcoords="offset points", fontsize=9.5,
        color=INK, linespacing=1.35, zorder=6,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5},
    )  # fmt: skip
    renderer = axes.figure.canvas.get_renderer()

    def cost(spot: tuple[float, float]) -> float:
        box = _placed(note, spot).get_window_extent(renderer)
        outside = not (axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1))
        covered = sum(bool(box.padded(4).contains(*dot)) for dot in drawn)
        crossed = sum(bool(box.overlaps(other)) for other in taken)
        return 100.0 * outside + 20 * crossed + covered + math.hypot(*spot) / 99

    return _placed(note, min(spots, key=cost)).get_window_extent(renderer)


def _placed(note: Any, spot: tuple[float, float]) -> Any:
    note.set_position(spot)
    note.set_horizontalalignment("left" if spot[0] > 0 else "right")
    note.set_verticalalignment("bottom" if spot[1] > 0 else "top" if spot[1] < 0 else "center")
    return note


def _plain(text: str) -> str:
    """Return user text without the sign that would start a formula."""
    return text.replace("$", r"\$")
