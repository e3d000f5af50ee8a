"""Rules for what is worth a trial: cheap facts are established before dear ones are paid for.

A point that is trained differs from its untrained sibling in the weights alone. For a fraction of
the price the sibling tells its times, and whether there is anything to recover.
"""

from collections.abc import Iterator, Sequence

from search.experiment import Experiment, Goal
from search.records import Record, bar_of, hopeless, order
from spaces import Point, Space, Stage


def untrained(space: Space, point: Point) -> Point | None:
    """Return the canonical point that differs in recovery training alone, and has none.

    None if the point is not trained, or if the space trains every point.
    """
    if space.plan(point).recovery.steps == 0:
        return None
    neutral = {
        k: v
        for s in space.slots
        if s.base.stage is Stage.TRAIN
        for k, v in s.values(s.base).items()
    }
    sibling = space.canonical(point | neutral)
    return sibling if space.plan(sibling).recovery.steps == 0 else None


def no_use_of_training(
    experiment: Experiment, sibling: Record, records: Sequence[Record], baseline: Record | None
) -> str | None:
    """Return the reason why training cannot help the candidate of `sibling`, None if it may.

    `sibling` is its untrained record. Training cannot help where nothing was lost that anyone can
    tell, where the sibling could not be built or measured, and where no score makes up for its
    time.
    """
    if sibling.state != "complete":
        return f"without training it is trial {sibling.trial}, which is {sibling.state}"
    if baseline is None:
        return None
    if not any(_lost(goal, sibling, baseline) for goal in _trained(experiment)):
        return f"without training, as trial {sibling.trial}, it lost nothing"
    known = {
        goal.name: sibling.measurements[goal.name]
        for goal in experiment.objectives
        if not goal.objective.trained
    }
    bar = bar_of(records, baseline)
    return hopeless(experiment.objectives, known, bar) if bar else None


def _trained(experiment: Experiment) -> Iterator[Goal]:
    """Yield the goals that depend on recovery training."""
    yield from (goal for goal in experiment.objectives if goal.objective.trained)


def _lost(goal: Goal, record: Record, baseline: Record) -> bool:
    """True if the record is worse than the baseline beyond noise."""
    found = order(record.measurements[goal.name], baseline.measurements[goal.name])
    return found == (-1 if goal.rising else 1)
