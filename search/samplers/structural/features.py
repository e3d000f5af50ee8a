"""Features of points when nothing is known but their values: scaled numbers, one-hot, totals."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.samplers import Features
from spaces import Dimension, Interval, Point, Space, Value

FEW = 6
"""Largest number of values of which each gets a feature of its own."""
SPAN = 2.0
"""Ratio of largest to smallest value from which on the logarithm is a feature too."""

Columns = NDArray[np.float64]


def generic(space: Space, points: Sequence[Point]) -> Features:
    """Describe points by the values of their dimensions.

    Ordered numbers are scaled to 0..1, with their logarithm where it differs; texts and truth
    values are one-hot. Dimensions whose names differ only in numbers (`heads_1`, `heads_2`) are a
    family: its totals are a group of their own, and what each member is is minor. A single negative
    value among others of at least 0 says that a member is absent.
    """
    blocks: list[_Block] = []
    for name, members in families(space).items():
        if len(members) > 1:
            blocks += _family(name, members, points)
        else:
            ((member, dimension),) = members.items()
            blocks += _single(member, dimension, points)
    return Features(
        values=np.hstack([block.columns for block in blocks]),
        groups=tuple(block.group for block in blocks for _ in range(block.columns.shape[1])),
        minor=frozenset(block.group for block in blocks if block.minor),
    )


def families(space: Space) -> dict[str, dict[str, Dimension]]:
    """Return the dimensions by what is left of their names without numbers.

    Members of a family are all numbers on a grid or all named options; else each is alone.
    """
    grouped: dict[str, dict[str, Dimension]] = {}
    for name, dimension in space.dimensions().items():
        kind = "one of" if _nominal(dimension) else "number"
        alone = dimension.values() is None or not re.search(r"\d", name)
        key = name if alone else f"{re.sub(r'[0-9]+', '#', name)} {kind}"
        grouped.setdefault(key, {})[name] = dimension
    return grouped


@dataclasses.dataclass(frozen=True)
class _Block:
    group: str
    columns: Columns
    minor: bool = False


def _single(name: str, dimension: Dimension, points: Sequence[Point]) -> list[_Block]:
    values = [point[name] for point in points]
    options = dimension.values()
    if _nominal(dimension):
        return [_Block(name, _one_hot(values, options or ()))]
    low, high = _range(dimension)
    numbers = np.array(values, dtype=float)
    columns = [(numbers - low) / ((high - low) or 1.0)]
    if low > 0 and high / low > SPAN:
        columns.append(np.log(numbers / low) / math.log(high / low))
    blocks = [_Block(name, np.stack(columns, axis=1))]
    if options and 2 < len(options) <= FEW:
        blocks.append(_Block(f"{name} values", _one_hot(values, options), minor=True))
    return blocks


def _family(name: str, members: Mapping[str, Dimension], points: Sequence[Point]) -> list[_Block]:
    options = list(dict.fromkeys(v for d in members.values() for v in d.values() or ()))
    table = [[point[member] for member in members] for point in points]
    named = all(_nominal(d) for d in members.values())
    one_by_one = named or len(options) <= FEW
    details = [_one_hot(column, options) for column in zip(*table, strict=True) if one_by_one]
    counts = [np.sum(details, axis=0)] if one_by_one else []
    if named:
        return [
            _Block(f"{name} totals", counts[0]),
            _Block(f"{name} values", np.hstack(details), minor=True),
        ]
    numbers = np.array(table, dtype=float).reshape(len(points), len(members))
    real = _real([float(option) for option in options])
    present = numbers >= min(real)
    kept = np.where(present, numbers, 0.0)
    values = [kept / (max(map(abs, real)) or 1.0), *details]
    totals = [kept.sum(axis=1), present.sum(axis=1).astype(float)]
    if min(real) > 0:
        totals.append(np.log(np.maximum(totals[0], min(real))))
    return [
        _Block(f"{name} totals", np.hstack([np.stack(totals, axis=1), *counts])),
        _Block(f"{name} values", np.hstack(values), minor=True),
    ]


def _real(options: Sequence[float]) -> list[float]:
    """Return the values of present members: all but a single negative one."""
    others = [option for option in options if option >= 0]
    return others if others and len(others) == len(options) - 1 else list(options)


def _one_hot(values: Sequence[Value], options: Sequence[Value]) -> Columns:
    places = {option: i for i, option in enumerate(options)}
    columns = np.zeros((len(values), len(options)))
    columns[np.arange(len(values)), [places[value] for value in values]] = 1.0
    return columns


def _nominal(dimension: Dimension) -> bool:
    return any(isinstance(v, str | bool) for v in dimension.values() or ())


def _range(dimension: Dimension) -> tuple[float, float]:
    if isinstance(dimension, Interval):
        return dimension.low, dimension.high
    numbers = [float(v) for v in dimension.values() or ()]
    return min(numbers), max(numbers)
