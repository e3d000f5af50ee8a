"""Placement of names beside points of the PNG chart, where they cover as little as possible."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

STEP = 5.0
"""Pixels between the dots that represent a line."""
OFFSETS = tuple(
    (dx, dy)
    for dx in (14, -14, 44, -44, 90, -90, 150, -150, 220, -220)
    for dy in (0, 14, -14, 34, -34, 60, -60, 90, -90, 130, -130, 170, -170)
)
"""Possible offsets of a name from its point, in typographic points."""
OUTSIDE, OVER, FOREIGN, CROSSING, DOT = 10_000.0, 1_000.0, 100.0, 30.0, 8.0
"""Costs of leaving the frame, of covering a name, of standing nearer to the point of another name,
of a name on another one's leader line, and of covering a dot. STEP pixels of a line cost 1."""
SAME, NEAR = 3.0, 9.0
"""Pixels within which two dots are the same, and within which a leader line covers a dot."""

Dot = tuple[float, float]


def write(
    axes: Any,
    names: Sequence[tuple[Dot, str]],
    dots: Sequence[Dot],
    lines: Sequence[Sequence[Dot]],
    ink: str,
    grey: str,
) -> None:
    """Write names beside points of `axes` in the colour `ink`, with leader lines in `grey`.

    Points are in data units, as are the dots and the lines that names should not cover.
    """
    marks = [_pixel(axes, dot) for dot in dots]
    strokes = [dot for line in lines for dot in _along([_pixel(axes, end) for end in line])]
    anchors = [_pixel(axes, point) for point, _ in names]
    boxes: list[Bbox] = []
    leaders: list[list[Dot]] = []
    for point, text in names:
        note = axes.annotate(
            text, point, OFFSETS[0], textcoords="offset points", fontsize=9.5, color=ink,
            linespacing=1.35, zorder=6, path_effects=[withStroke(linewidth=3, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": grey, "linewidth": 0.7, "shrinkA": 1,
                        "shrinkB": 5},
        )  # fmt: skip
        extent = Text.get_window_extent(note, axes.figure.canvas.get_renderer())
        anchor, scale = _pixel(axes, point), axes.figure.dpi / 72

        def cost(
            offset: Dot, anchor: Dot = anchor, extent: Bbox = extent, scale: float = scale
        ) -> float:
            box = _box(anchor, offset, extent, scale).padded(4)
            leader = _leader(anchor, box)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            crossings = sum(_meets(box, line) for line in leaders)
            crossings += sum(_meets(other, leader) for other in boxes)
            over = sum(bool(box.overlaps(other)) for other in boxes)
            hidden = DOT * (_inside(box.padded(4), marks) + _passed(anchor, leader[1:], marks))
            hidden += _inside(box, strokes)
            distance = _distance(box, anchor)
            foreign = sum(_distance(box, other) < distance for other in anchors if other != anchor)
            length = math.hypot(*offset) / 40
            return (
                OUTSIDE * (not inside)
                + OVER * over
                + FOREIGN * foreign
                + CROSSING * crossings
                + hidden
                + length
            )

        offset = min(OFFSETS, key=cost)
        note.set_position(offset)
        note.set_horizontalalignment("left" if offset[0] > 0 else "right")
        note.set_verticalalignment(
            "bottom" if offset[1] > 0 else "top" if offset[1] < 0 else "center"
        )
        boxes.append(_box(anchor, offset, extent, scale).padded(4))
        leaders.append(_leader(anchor, boxes[-1]))


def _pixel(axes: Any, dot: Dot) -> Dot:
    x, y = axes.transData.transform(dot)
    return float(x), float(y)


def _along(ends: Sequence[Dot]) -> list[Dot]:
    """Return dots on the line through all ends, STEP pixels apart."""
    dots = []
    for (x0, y0), (x1, y1) in itertools.pairwise(ends):
        count = 2 + int(math.hypot(x1 - x0, y1 - y0) / STEP)
        across, up = np.linspace(x0, x1, count), np.linspace(y0, y1, count)
        dots += list(zip(across.tolist(), up.tolist(), strict=True))
    return dots


def _box(anchor: Dot, offset: Dot, extent: Bbox, scale: float) -> Bbox:
    """Return the box in pixels that a text of an extent covers at an offset."""
    x, y = anchor[0] + offset[0] * scale, anchor[1] + offset[1] * scale
    left = x if offset[0] > 0 else x - extent.width
    low = y if offset[1] > 0 else y - extent.height * (1.0 if offset[1] < 0 else 0.5)
    return Bbox.from_bounds(left, low, extent.width, extent.height)


def _leader(anchor: Dot, box: Bbox) -> list[Dot]:
    """Return dots on the line from a point to the middle of its name, outside of the name."""
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    return [dot for dot in _along([anchor, middle]) if not box.contains(*dot)]


def _inside(box: Bbox, dots: Sequence[Dot]) -> int:
    """Return the number of dots inside a box."""
    points = np.array(dots).reshape(-1, 2)
    return int(((points > box.min) & (points < box.max)).all(1).sum())


def _passed(anchor: Dot, leader: Sequence[Dot], marks: Sequence[Dot]) -> int:
    """Return the number of dots, other than the one at `anchor`, that a leader line covers."""
    others = [mark for mark in marks if math.dist(anchor, mark) > SAME]
    return sum(any(math.dist(mark, dot) < NEAR for dot in leader) for mark in others)


def _distance(box: Bbox, dot: Dot) -> float:
    """Return the distance of a dot from a box, in pixels."""
    across = max(box.x0 - dot[0], 0.0, dot[0] - box.x1)
    return math.hypot(across, max(box.y0 - dot[1], 0.0, dot[1] - box.y1))


def _meets(box: Bbox, line: Sequence[Dot]) -> bool:
    return any(box.contains(*dot) for dot in line)
