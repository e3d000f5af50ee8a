"""What the points of a space have to say before any of them is tried: how many can be executed."""

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
"""Spaces up to this size are gone through point by point."""
DRAWN = 2_000
"""Points of larger spaces that are drawn instead."""

Refuse = Callable[[Point], str | None]
"""Says why a point cannot be executed, None if it can."""


def require_executable(experiment: Experiment, refuse: Refuse) -> None:
    """Raise BadExperiment when no point of the space can be executed.

    What prunes has no say in that and stays neutral; all else is combined.
    """
    reason = None
    for point in itertools.chain(opening(experiment), _deciding(experiment)):
        found = refuse(point)
        if found is None:
            return
        reason = reason or found
    raise BadExperiment(f"no point of the space can be executed: {reason}")


def counted(experiment: Experiment, refuse: Refuse) -> list[str]:
    """Return how many points there are, and why some cannot be executed.

    Raises BadExperiment when not even one point can be executed.
    """
    require_executable(experiment, refuse)
    size = experiment.space.size()
    extent = f"{size:,.0f} points" if math.isfinite(size) else "of which some are continuous"
    lines = [f"space     {len(experiment.space.dimensions())} dimensions, {extent}"]
    whole = size <= COUNTED
    reasons: Counter[str] = Counter()
    different = set()
    for point in _all(experiment) if whole else _drawn(experiment):
        if reason := refuse(point):
            reasons[reason] += 1
        else:
            different.add(json.dumps(experiment.space.canonical(point), sort_keys=True))
    if not whole:
        share = 1 - reasons.total() / DRAWN
        lines.append(f"          about {share:.0%} of them can be executed, of {DRAWN:,} drawn")
        return lines + [f"          {n / DRAWN:.1%} cannot: {r}" for r, n in reasons.most_common()]
    lines.append(f"          {len(different):,} of them differ and can be executed")
    return lines + [f"          {n:,} cannot: {r}" for r, n in reasons.most_common()]


def _all(experiment: Experiment) -> Iterator[Point]:
    dimensions = experiment.space.dimensions()
    return _combined({name: d.values() or () for name, d in dimensions.items()})


def _drawn(experiment: Experiment) -> Iterator[Point]:
    draw = random.Random(experiment.seed)
    dimensions = experiment.space.dimensions()
    for _ in range(DRAWN):
        yield {name: drawn(dimension, draw) for name, dimension in dimensions.items()}


def _deciding(experiment: Experiment) -> Iterator[Point]:
    """Yield combinations of what is not about the shape, up to COUNTED of them."""
    neutral = experiment.space.neutral()
    grids = {
        f"{slot.name}.{field}": _marks(dimension)
        for slot in experiment.space.slots
        if slot.base.stage is not Stage.SHAPE
        for field, dimension in slot.ranges.items()
    }
    for point in itertools.islice(_combined(grids), COUNTED):
        yield neutral | point


def _combined(grids: dict[str, tuple[Value, ...]]) -> Iterator[Point]:
    for values in itertools.product(*grids.values()):
        yield dict(zip(grids, values, strict=True))


def _marks(dimension: Dimension) -> tuple[Value, ...]:
    """Return the values of a dimension, of a continuous one its ends."""
    if (grid := dimension.values()) is not None:
        return grid
    assert isinstance(dimension, Interval)
    return (dimension.low, dimension.high)
