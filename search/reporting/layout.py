"""Where records lie in the main picture: decided once, drawn as HTML and as PNG."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from objectives import Direction
from search.records import Axis, Record
from search.reporting.summary import Summary

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#4B4B4B")
"""Tell runtimes apart for colour-blind readers too (Okabe and Ito 2008, Color Universal Design)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plane:
    """Which axes are drawn how; with a single axis, trials are drawn one after the other."""

    x: Axis | None
    y: Axis
    size: Axis | None

    def at(self, record: Record) -> tuple[float, float]:
        """Return where the record lies, in the axes' units."""
        return (self.x.value(record) if self.x else record.trial, self.y.value(record))

    @property
    def log(self) -> bool:
        """Whether the horizontal axis is logarithmic."""
        return self.x is not None and self.x.positive


def plane(axes: Sequence[Axis]) -> Plane:
    """Return what to draw: quality (what is not a ratio) upwards, time across, the rest as size."""
    y = next((a for a in axes if not a.positive), axes[0])
    rest = [a for a in axes if a is not y]
    x = next((a for a in rest if a.is_time), rest[0] if rest else None)
    size = next((a for a in rest if a is not x and a.positive), None)
    return Plane(x=x, y=y, size=size)


def placed(summary: Summary) -> list[tuple[Record, str]]:
    """Return the records that have a place in the picture, each with its role; the front last.

    None has without a measured baseline: there is nothing to compare with.
    """
    if not summary.grounded:
        return []
    pairs = [(r, summary.role(r)) for r in summary.records if r.state == "complete"]
    return sorted(pairs, key=lambda pair: ("over limit", "dominated", "front").index(pair[1]))


def colours(records: Iterable[Record]) -> dict[str, str]:
    """Return a colour for each runtime; after eight they repeat."""
    names = sorted({r.runtime for r in records})
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def staircase(here: Plane, members: Sequence[Record]) -> list[tuple[float, float]]:
    """Return the corners of the front's outline in the plane, by ascending x.

    With three objectives some members lie behind the outline: they are there for the third.
    """
    if here.x is None:
        return []
    x, y = here.x, here.y
    corners: list[Record] = []
    for record in sorted(members, key=lambda r: (x.loss(r), y.loss(r))):
        if not corners or y.loss(record) < y.loss(corners[-1]):
            corners.append(record)
    return sorted(here.at(r) for r in corners)


def ascending(here: Plane) -> bool:
    """Whether the value at a corner holds from there to the right (lower x is better)."""
    return here.x is None or here.x.direction is Direction.MINIMIZE


def radii(here: Plane, records: Sequence[Record], low: float, high: float) -> dict[int, float]:
    """Return marker diameters by trial: the area is proportional to the size axis' value."""
    if here.size is None:
        return {r.trial: (low + high) / 2 for r in records}
    axis = here.size
    largest = max((axis.value(r) for r in records), default=1.0)
    return {r.trial: max(low, high * math.sqrt(axis.value(r) / largest)) for r in records}


def frame(summary: Summary, here: Plane) -> tuple[tuple[float, float], tuple[float, float], int]:
    """Return the x range, the y range and how many records lie outside it.

    The vertical range shows the front with its intervals, the baseline and the bound, with some
    room below: one ruined model must not flatten everything that matters.
    """
    records = [r for r, _ in placed(summary)]
    kept = [here.y.value(r) for r in (*summary.front, summary.baseline)]
    kept += [summary.bounds[here.y.name]] if here.y.name in summary.bounds else []
    kept = kept if summary.front else [here.y.value(r) for r in records] + kept
    room = 0.12 * ((max(kept) - min(kept)) or abs(max(kept)) or 1.0)
    below, above = (3 * room, room) if here.y.direction is Direction.MAXIMIZE else (room, 3 * room)
    every = [here.y.value(r) for r in records] + kept
    low = max(min(kept) - below, min(every) - room)
    high = min(max(kept) + above, max(every) + room)
    bars = _ends(here.y, summary.front)
    low, high = (
        min([low, *(b - room / 2 for b in bars)]),
        max([high, *(b + room / 2 for b in bars)]),
    )
    hidden = sum(not low <= here.y.value(r) <= high for r in records)
    across = [here.at(r)[0] for r in (*records, summary.baseline)]
    across += _ends(here.x, summary.front) if here.x else []
    return _across([x for x in across if x > 0 or not here.log], here), (low, high), hidden


def _ends(axis: Axis, members: Sequence[Record]) -> list[float]:
    """Return the ends of the members' intervals on an axis."""
    found = [record.measurements[axis.name] for record in members]
    return [end for measurement in found for end in (measurement.low, measurement.high)]


def _across(values: Sequence[float], here: Plane) -> tuple[float, float]:
    low, high = min(values), max(values)
    if here.log:
        room = 1.12 * (high / low) ** 0.04
        return low / room, high * room
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Return four to ten round numbers from `low` to `high`, for a log axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(10, 100)):
        scale = 0.1 if isinstance(digits, range) else 1.0
        every = [round(m * scale, 1) * 10.0**d for d in decades for m in digits]
        inside = [float(f"{v:.6g}") for v in every if low <= v <= high]
        if len(inside) >= 4:
            break
    return inside[:: math.ceil(len(inside) / 10)]


def label(axis: Axis | None) -> str:
    """Return what an axis is called in a picture: `Latency (ms), lower is better`."""
    if axis is None:
        return "Trial"
    unit = "" if axis.unit == "score" else f" ({axis.unit})"
    better = "lower" if axis.direction is Direction.MINIMIZE else "higher"
    return f"{axis.name.capitalize()}{unit}, {better} is better"
