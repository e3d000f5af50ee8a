"""Count the points of a space that can be executed, and the reasons why others cannot."""

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

from search.errors import BadExperiment
from search.experiment import Experiment
from search.study import opening
from spaces import Dimension, Interval, Point, Stage, Value, drawn

COUNTED = 20_000
"""Largest size of a space whose points are all checked."""
DRAWN = 2_000
"""Number of random points that are checked in larger spaces."""

Refuse = Callable[[Point], str | None]
"""Returns the reason why a point cannot be executed, or None if it can."""


def require_executable(experiment: Experiment, refuse: Refuse) -> None:
    """Raise BadExperiment if no point of the space can be executed.

    Techniques that edit the shape do not matter for that and stay neutral; all values of the other
    dimensions are combined.
    """
    first_reason = None
    for point in itertools.chain(opening(experiment), _unshaped(experiment)):
        reason = refuse(point)
        if reason is None:
            return
        first_reason = first_reason or reason
    raise BadExperiment(f"no point of the space can be executed: {first_reason}")


def point_counts(experiment: Experiment, refuse: Refuse) -> list[str]:
    """Return the number of executable points and the reasons against others, one line each.

    Raises BadExperiment if no point can be executed.
    """
    require_executable(experiment, refuse)
    size = experiment.space.size()
    extent = f"{size:,.0f} points" if math.isfinite(size) else "of which some are continuous"
    lines = [f"space     {len(experiment.space.dimensions())} dimensions, {extent}"]
    exhaustive = size <= COUNTED
    reasons: Counter[str] = Counter()
    distinct = set()
    for point in _all(experiment) if exhaustive else _drawn(experiment):
        if reason := refuse(point):
            reasons[reason] += 1
        else:
            distinct.add(json.dumps(experiment.space.canonical(point), sort_keys=True))
    if not exhaustive:
        share = 1 - reasons.total() / DRAWN
        lines.append(f"          about {share:.0%} of them can be executed, of {DRAWN:,} drawn")
        return lines + [f"          {n / DRAWN:.1%} cannot: {r}" for r, n in reasons.most_common()]
    lines.append(f"          {len(distinct):,} of them differ and can be executed")
    return lines + [f"          {n:,} cannot: {r}" for r, n in reasons.most_common()]


def _all(experiment: Experiment) -> Iterator[Point]:
    dimensions = experiment.space.dimensions()
    return _combined({name: d.values() or () for name, d in dimensions.items()})


def _drawn(experiment: Experiment) -> Iterator[Point]:
    generator = random.Random(experiment.seed)
    dimensions = experiment.space.dimensions()
    for _ in range(DRAWN):
        yield {name: drawn(dimension, generator) for name, dimension in dimensions.items()}


def _unshaped(experiment: Experiment) -> Iterator[Point]:
    """Yield up to COUNTED combinations of all dimensions that do not edit the shape."""
    neutral = experiment.space.neutral()
    grids = {
        f"{slot.name}.{field}": _values_or_ends(dimension)
        for slot in experiment.space.slots
        if slot.base.stage is not Stage.SHAPE
        for field, dimension in slot.ranges.items()
    }
    for point in itertools.islice(_combined(grids), COUNTED):
        yield neutral | point


def _combined(grids: dict[str, tuple[Value, ...]]) -> Iterator[Point]:
    for values in itertools.product(*grids.values()):
        yield dict(zip(grids, values, strict=True))


def _values_or_ends(dimension: Dimension) -> tuple[Value, ...]:
    """Return the values of a dimension, or the ends of a continuous one."""
    if (grid := dimension.values()) is not None:
        return grid
    assert isinstance(dimension, Interval)
    return (dimension.low, dimension.high)
