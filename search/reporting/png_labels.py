"""Names beside points of a picture: each where it covers the least and no two in one place."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

STEP = 5.0
"""Pixels between the points that stand for a line."""
SPOTS = tuple(
    (dx, dy)
    for dx in (14, -14, 44, -44, 90, -90, 150, -150, 220, -220)
    for dy in (0, 14, -14, 34, -34, 60, -60, 90, -90, 130, -130, 170, -170)
)
"""Where a name may stand, in typographic points from what it names."""
OUTSIDE, OVER, FOREIGN, CROSSING, DOT = 10_000.0, 1_000.0, 100.0, 30.0, 8.0
"""What it costs to leave the frame, to cover a name, to stand nearer to what another name is of,
that a name and a line to one meet, and that either covers a dot; STEP pixels of a line cost 1."""
SAME, NEAR = 3.0, 9.0
"""Pixels up to which two dots are one, and a line to a name covers a dot."""

Dot = tuple[float, float]


def write(
    axes: Any,
    names: Sequence[tuple[Dot, str]],
    dots: Sequence[Dot],
    lines: Sequence[Sequence[Dot]],
    ink: str,
    grey: str,
) -> None:
    """Write names beside points of `axes`, in `ink`, each with a line in `grey` to what it names.

    Points are in data units, as are the dots and the lines that names should not cover.
    """
    marks = [_pixel(axes, dot) for dot in dots]
    strokes = [dot for line in lines for dot in _along([_pixel(axes, end) for end in line])]
    owners = [_pixel(axes, at) for at, _ in names]
    boxes: list[Bbox] = []
    leaders: list[list[Dot]] = []
    for at, text in names:
        note = axes.annotate(
            text, at, SPOTS[0], textcoords="offset points", fontsize=9.5, color=ink,
            linespacing=1.35, zorder=6, path_effects=[withStroke(linewidth=3, foreground="white")],
            arrowprops={"arrowstyle": "-", "color": grey, "linewidth": 0.7, "shrinkA": 1,
                        "shrinkB": 5},
        )  # fmt: skip
        extent = Text.get_window_extent(note, axes.figure.canvas.get_renderer())
        here, scale = _pixel(axes, at), axes.figure.dpi / 72

        def cost(spot: Dot, here: Dot = here, extent: Bbox = extent, scale: float = scale) -> float:
            box = _box(here, spot, extent, scale).padded(4)
            leader = _leader(here, box)
            inside = axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)
            met = sum(_meets(box, line) for line in leaders)
            met += sum(_meets(other, leader) for other in boxes)
            over = sum(bool(box.overlaps(other)) for other in boxes)
            hidden = DOT * (_inside(box.padded(4), marks) + _passed(here, leader[1:], marks))
            hidden += _inside(box, strokes)
            own = _apart(box, here)
            foreign = sum(_apart(box, other) < own for other in owners if other != here)
            far = math.hypot(*spot) / 40
            return (
                OUTSIDE * (not inside)
                + OVER * over
                + FOREIGN * foreign
                + CROSSING * met
                + hidden
                + far
            )

        spot = min(SPOTS, key=cost)
        note.set_position(spot)
        note.set_horizontalalignment("left" if spot[0] > 0 else "right")
        note.set_verticalalignment("bottom" if spot[1] > 0 else "top" if spot[1] < 0 else "center")
        boxes.append(_box(here, spot, extent, scale).padded(4))
        leaders.append(_leader(here, boxes[-1]))


def _pixel(axes: Any, dot: Dot) -> Dot:
    x, y = axes.transData.transform(dot)
    return float(x), float(y)


def _along(ends: Sequence[Dot]) -> list[Dot]:
    """Return dots on the straight lines from each end to the next, STEP pixels apart."""
    dots = []
    for (x0, y0), (x1, y1) in itertools.pairwise(ends):
        count = 2 + int(math.hypot(x1 - x0, y1 - y0) / STEP)
        across, up = np.linspace(x0, x1, count), np.linspace(y0, y1, count)
        dots += list(zip(across.tolist(), up.tolist(), strict=True))
    return dots


def _box(here: Dot, spot: Dot, extent: Bbox, scale: float) -> Bbox:
    """Return what a text of an extent covers when it stands at a spot, in pixels."""
    x, y = here[0] + spot[0] * scale, here[1] + spot[1] * scale
    left = x if spot[0] > 0 else x - extent.width
    low = y if spot[1] > 0 else y - extent.height * (1.0 if spot[1] < 0 else 0.5)
    return Bbox.from_bounds(left, low, extent.width, extent.height)


def _leader(here: Dot, box: Bbox) -> list[Dot]:
    """Return dots on the line from a point to the middle of its name, outside of the name."""
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    return [dot for dot in _along([here, middle]) if not box.contains(*dot)]


def _inside(box: Bbox, dots: Sequence[Dot]) -> int:
    """Return how many dots lie in a box."""
    every = np.array(dots).reshape(-1, 2)
    return int(((every > box.min) & (every < box.max)).all(1).sum())


def _passed(here: Dot, leader: Sequence[Dot], marks: Sequence[Dot]) -> int:
    """Return how many dots besides the one at `here` a line to a name covers."""
    others = [mark for mark in marks if math.dist(here, mark) > SAME]
    return sum(any(math.dist(mark, dot) < NEAR for dot in leader) for mark in others)


def _apart(box: Bbox, dot: Dot) -> float:
    """Return how far a dot is from a box."""
    across = max(box.x0 - dot[0], 0.0, dot[0] - box.x1)
    return math.hypot(across, max(box.y0 - dot[1], 0.0, dot[1] - box.y1))


def _meets(box: Bbox, line: Sequence[Dot]) -> bool:
    return any(box.contains(*dot) for dot in line)
