"""The first points of a search: baselines, each technique alone, and usual combinations."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from search.experiment import Experiment
from search.records import Record
from spaces import Dimension, Point, Slot, Stage, Value

REACH = 3.0
"""Runtimes in which the unchanged shape takes longer than this times the fastest one's time get no
point of the opening but their baseline."""
SHARE = 0.6
"""Largest share of the trials that the opening may use; the sampler gets the rest. However few
trials there are, the baselines and one encoding in each of their runtimes are tried."""


def baselines(experiment: Experiment) -> list[Point]:
    """Return the neutral point in every searched runtime, the neutral runtime first."""
    neutral, runtime = experiment.space.neutral(), experiment.space.named("runtime")
    if runtime is None:
        return [neutral]
    return [neutral | {runtime: name} for name in experiment.runtime_names()]


def reference_of(experiment: Experiment, records: Iterable[Record]) -> Record | None:
    """Return the record of the unchanged model in its fastest runtime; None if there is none."""
    neutral = baselines(experiment)
    known = [r for r in records if r.state == "complete" and r.point in neutral]
    goal = next((g for g in experiment.objectives if g.timed), None)
    if goal is None:
        return next(iter(known), None)
    sign = -1 if goal.rising else 1
    return min(known, key=lambda r: sign * r.measurements[goal.name].value, default=None)


def opening(
    experiment: Experiment,
    times: Mapping[str, float] | None = None,
    given: Sequence[Point] = (),
) -> list[Point]:
    """Return the points to try before sampling, without repeats, the most informative first.

    After the baselines come the `given` points; settings that these lack are those of the fastest
    baseline.

    `times` are the shortest times of the unchanged shape by runtime, as far as they are measured:
    after the baselines the fastest runtime comes first, and runtimes out of its reach are left out.
    The caller has to check which points a runtime can execute.
    """
    starts = baselines(experiment)
    within_reach = _within_reach(experiment, starts, times or {})
    fastest = within_reach[0] if times else starts[-1]
    encodings = [e for slot in _slots(experiment, Stage.ENCODE) for e in _usual(slot)]
    points = [*starts, *(fastest | point for point in given)]
    points += [*(s | e for e in encodings[:1] for s in within_reach)]
    points += _pairs(experiment, within_reach)
    points += [*_recipes(experiment, fastest), *(fastest | e for e in encodings)]
    points += _alone(experiment, fastest)
    unique = {tuple(sorted(p.items())): p for p in map(experiment.space.canonical, points)}
    return list(unique.values())


def _within_reach(
    experiment: Experiment, starts: list[Point], times: Mapping[str, float]
) -> list[Point]:
    """Return the baselines by their times, without those that REACH rules out.

    Those without a time come last, in their given order.
    """
    named = [(times.get(experiment.space.plan(s).runtime, math.inf), s) for s in starts]
    ranked = sorted(named, key=lambda pair: pair[0])
    limit = REACH * ranked[0][0]
    return [s for time, s in ranked if time <= limit or math.isinf(time)]


def _pairs(experiment: Experiment, starts: list[Point]) -> Iterator[Point]:
    """Yield the first usual settings of two encodings together, unless they exclude each other.

    Integers with bfloat16 for the rest are the fastest encoding of some processors; most runtimes
    refuse them, which costs nothing.
    """
    first = [usual[0] for slot in _slots(experiment, Stage.ENCODE) if (usual := _usual(slot))]
    for one, other in itertools.combinations(first, 2):
        if experiment.space.plan(one | other).encoding.clash is None:
            yield from (start | one | other for start in starts)


def _recipes(experiment: Experiment, start: Point) -> Iterator[Point]:
    """Yield each usual shape with the first usual encoding, untrained.

    Untrained points are cheap, and which of them to train is for the sampler to judge. Without
    shapes, the first encoding is trained.
    """
    shapes = [setting for slot in _slots(experiment, Stage.SHAPE) for setting in _usual(slot)]
    encodings = [next(iter(_usual(slot)), {}) for slot in _slots(experiment, Stage.ENCODE)[:1]]
    encoding = encodings[0] if encodings else {}
    yield from (start | shape | encoding for shape in shapes)
    if not shapes:
        yield start | encoding | _strongest(experiment)


def _alone(experiment: Experiment, start: Point) -> Iterator[Point]:
    """Yield the first usual setting of each technique of deployment alone."""
    runtime = experiment.space.named("runtime")
    for slot in (s for s in _slots(experiment, Stage.DEPLOY) if f"{s.name}.name" != runtime):
        for setting in list(_usual(slot))[:1]:
            yield start | setting


def _strongest(experiment: Experiment) -> Point:
    """Return the last (longest) usual setting of every training technique."""
    parts = [list(_usual(slot)) for slot in _slots(experiment, Stage.TRAIN)]
    return {k: v for options in parts for k, v in (options[-1] if options else {}).items()}


def _slots(experiment: Experiment, stage: Stage) -> list[Slot]:
    return [s for s in experiment.space.slots if s.base.stage is stage and s.ranges]


def _usual(slot: Slot) -> list[Point]:
    """Return the technique's usual settings as parts of a point, within the searched ranges."""
    neutral = slot.values(slot.base)
    settings: list[Point] = []
    for setting in slot.base.usual():
        values = slot.values(setting)
        nearest = {k: _nearest(slot.ranges[k.rpartition(".")[2]], v) for k, v in values.items()}
        fits = all(nearest[k] == v or not isinstance(v, str) for k, v in values.items())
        if fits and nearest != neutral and nearest not in settings:
            settings.append(nearest)
    return settings


def _nearest(dimension: Dimension, value: Value) -> Value:
    """Return the allowed value nearest to `value`, or the first one for a string not allowed."""
    grid: Iterable[Value] | None = dimension.values()
    if grid is None or dimension.holds(value):
        return value
    options = list(grid)
    if isinstance(value, str):
        return options[0]
    return min((v for v in options if not isinstance(v, str)), key=lambda v: abs(v - value))
