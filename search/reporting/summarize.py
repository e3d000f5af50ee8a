"""What is told of a study, drawn from its experiment and its records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search import run_folder
from search.experiment import Experiment, Goal
from search.reporting.summary import Summary
from search.study import Axis, Record


def summary_of(
    experiment: Experiment,
    run: Path,
    command: str,
    records: Sequence[Record],
    front: Sequence[Record],
    baseline: Record,
    *,
    confirmed: bool,
) -> Summary:
    """Return what is told of a study."""
    environment = run_folder.environment(experiment, command)
    told = {**environment.pop("versions"), **environment}
    limits = {k: v for goal in experiment.goals for k, v in limits_in_words(goal, baseline).items()}
    return Summary(
        key=f"{experiment.name}-{experiment.key}-{run.resolve()}",
        name=experiment.name,
        command=command,
        axes=tuple(Axis.of(g.name, g.objective) for g in experiment.goals),
        baseline=baseline,
        records=tuple(records),
        front=tuple(sorted(front, key=lambda r: _order(r, experiment))),
        neutral=experiment.space.neutral(),
        searched=tuple(n for n, d in experiment.space.dimensions().items() if _several(d.values())),
        goal=_goal(experiment, limits),
        limits=limits,
        bounds=_bounds(experiment, baseline),
        environment={k: str(v) for k, v in told.items() if v is not None},
        run_folder=str(run),
        confirmed=confirmed,
    )


def _several(values: Sequence[Any] | None) -> bool:
    return values is None or len(values) > 1


def _order(record: Record, experiment: Experiment) -> float:
    """Order a front by its first timed objective, or else by the first of all, the best first."""
    goals = experiment.goals
    goal = next((g for g in goals if g.objective.timed), goals[0])
    value = record.measurements[goal.name].value
    return -value if goal.rising else value


def limits_in_words(goal: Goal, baseline: Record) -> dict[str, str]:
    """Return each limit of a goal as words; a share of a score is told in its points."""
    unit, worse = goal.objective.unit, "below" if goal.rising else "above"
    words = {}
    start = baseline.measurements[goal.name].value
    if (allowed := goal.allowed(start)) is not None:
        share = None if goal.scored(start) else goal.within_share
        much = f"{allowed:g} {unit}" if share is None else f"{100 * share:g} %"
        words["within"] = f"at most {much} {worse} the unchanged model"
    if goal.at_least is not None:
        words["at_least"] = f"at least {goal.at_least:g} {unit}"
    if goal.at_most is not None:
        words["at_most"] = f"at most {goal.at_most:g} {unit}"
    return {f"{goal.name}.{bound}": text for bound, text in words.items()}


def _goal(experiment: Experiment, limits: Mapping[str, str]) -> str:
    aims = " and ".join(f"{'more' if g.rising else 'less'} {g.name}" for g in experiment.goals)
    bounds = "; ".join(f"{name.partition('.')[0]} {text}" for name, text in limits.items())
    target = experiment.target
    threads = f"{target.threads} thread{'s' * (target.threads > 1)}"
    where = f"{target.device}, {threads}, batch {target.batch_size}"
    return f"Search for {aims} on {where}" + (f", with {bounds}." if bounds else ".")


def _bounds(experiment: Experiment, baseline: Record) -> dict[str, float]:
    found = {}
    for goal in experiment.goals:
        start = baseline.measurements[goal.name].value
        if (allowed := goal.allowed(start)) is not None:
            found[goal.name] = start - allowed if goal.rising else start + allowed
        for bound in (goal.at_least, goal.at_most):
            if bound is not None:
                found[goal.name] = bound
    return found
