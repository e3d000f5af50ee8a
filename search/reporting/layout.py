"""Layout of the main chart, shared by HTML and PNG: axes, ranges, positions, colours and sizes."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from objectives import Direction
from search.records import Axis, Record
from search.reporting.summary import Summary

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#4B4B4B")
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008, Color Universal Design)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plane:
    """The axes of the main chart; without x, trials are drawn one after the other."""

    x: Axis | None
    y: Axis
    size: Axis | None

    def position(self, record: Record) -> tuple[float, float]:
        """Return the position of a record, in the units of the axes."""
        return (self.x.value(record) if self.x else record.trial, self.y.value(record))

    @property
    def log(self) -> bool:
        """True if the horizontal axis is logarithmic."""
        return self.x is not None and self.x.positive


def plane_of(axes: Sequence[Axis]) -> Plane:
    """Return the axes to draw: quality (not a ratio) as y, time as x, another ratio as size."""
    y = next((a for a in axes if not a.positive), axes[0])
    rest = [a for a in axes if a is not y]
    x = next((a for a in rest if a.is_time), rest[0] if rest else None)
    size = next((a for a in rest if a is not x and a.positive), None)
    return Plane(x=x, y=y, size=size)


def plotted(summary: Summary) -> list[tuple[Record, str]]:
    """Return the records to draw, each with its role, sorted so that the front is drawn last.

    Empty until the baseline is measured.
    """
    if not summary.has_baseline:
        return []
    pairs = [(r, summary.role(r)) for r in summary.records if r.state == "complete"]
    return sorted(pairs, key=lambda pair: ("over limit", "dominated", "front").index(pair[1]))


def colours(records: Iterable[Record]) -> dict[str, str]:
    """Return a colour for each runtime; colours repeat after the eighth."""
    names = sorted({r.runtime for r in records})
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def staircase(plane: Plane, members: Sequence[Record]) -> list[tuple[float, float]]:
    """Return the corners of the front's outline in the plane, by ascending x.

    With three objectives some members lie behind the outline, as they are better in the third.
    """
    if plane.x is None:
        return []
    x, y = plane.x, plane.y
    corners: list[Record] = []
    for record in sorted(members, key=lambda r: (x.loss(r), y.loss(r))):
        if not corners or y.loss(record) < y.loss(corners[-1]):
            corners.append(record)
    return sorted(plane.position(r) for r in corners)


def ascending(plane: Plane) -> bool:
    """True if the front's outline continues from a corner to the right, as lower x is better."""
    return plane.x is None or plane.x.direction is Direction.MINIMIZE


def diameters(plane: Plane, records: Sequence[Record], low: float, high: float) -> dict[int, float]:
    """Return marker diameters by trial number: areas are proportional to the size axis' values."""
    if plane.size is None:
        return {r.trial: (low + high) / 2 for r in records}
    axis = plane.size
    largest = max((axis.value(r) for r in records), default=1.0)
    return {r.trial: max(low, high * math.sqrt(axis.value(r) / largest)) for r in records}


def axis_ranges(
    summary: Summary, plane: Plane
) -> tuple[tuple[float, float], tuple[float, float], int]:
    """Return the x range, the y range, and the number of records outside of the y range.

    The y range has room for the front with its intervals, the baseline and the limit, so that one
    ruined model does not flatten the rest.
    """
    records = [r for r, _ in plotted(summary)]
    shown = [plane.y.value(r) for r in (*summary.front, summary.baseline)]
    shown += [summary.bounds[plane.y.name]] if plane.y.name in summary.bounds else []
    shown = shown if summary.front else [plane.y.value(r) for r in records] + shown
    room = 0.12 * ((max(shown) - min(shown)) or abs(max(shown)) or 1.0)
    below, above = (3 * room, room) if plane.y.direction is Direction.MAXIMIZE else (room, 3 * room)
    all_values = [plane.y.value(r) for r in records] + shown
    low = max(min(shown) - below, min(all_values) - room)
    high = min(max(shown) + above, max(all_values) + room)
    interval_ends = _ends(plane.y, summary.front)
    low, high = (
        min([low, *(b - room / 2 for b in interval_ends)]),
        max([high, *(b + room / 2 for b in interval_ends)]),
    )
    hidden = sum(not low <= plane.y.value(r) <= high for r in records)
    x_values = [plane.position(r)[0] for r in (*records, summary.baseline)]
    x_values += _ends(plane.x, summary.front) if plane.x else []
    return (
        _padded_range([x for x in x_values if x > 0 or not plane.log], plane),
        (low, high),
        hidden,
    )


def _ends(axis: Axis, members: Sequence[Record]) -> list[float]:
    """Return the ends of the members' intervals on an axis."""
    measurements = [record.measurements[axis.name] for record in members]
    return [end for measurement in measurements for end in (measurement.low, measurement.high)]


def _padded_range(values: Sequence[float], plane: Plane) -> tuple[float, float]:
    """Return the range of values on the x axis, with a margin at both ends."""
    low, high = min(values), max(values)
    if plane.log:
        room = 1.12 * (high / low) ** 0.04
        return low / room, high * room
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Return four to ten round numbers from `low` to `high`, for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(10, 100)):
        scale = 0.1 if isinstance(digits, range) else 1.0
        candidates = [round(m * scale, 1) * 10.0**d for d in decades for m in digits]
        inside = [float(f"{v:.6g}") for v in candidates if low <= v <= high]
        if len(inside) >= 4:
            break
    return inside[:: math.ceil(len(inside) / 10)]


def axis_title(axis: Axis | None) -> str:
    """Return the title of an axis: `Latency (ms), lower is better`."""
    if axis is None:
        return "Trial"
    unit = "" if axis.unit == "score" else f" ({axis.unit})"
    better = "lower" if axis.direction is Direction.MINIMIZE else "higher"
    return f"{axis.name.capitalize()}{unit}, {better} is better"
