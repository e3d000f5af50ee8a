"""Summary of a study: the data behind report, console and tracker."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Measurement
from search import run_folder
from search.experiment import Experiment, Goal
from search.records import (
    Axis,
    Membership,
    Record,
    difference,
    feasible,
    membership,
    nearest,
    pick,
    picks,
)
from spaces import Space

SIZE = "size"
"""Name of the bytes of an artifact's files, in a summary where they are no objective too."""
UNCONFIRMED = "The front has NOT been measured again: small differences may be noise."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that is reported about a study, at any time during it."""

    key: str
    """Unique and permanent key of the study: the same on resume."""
    name: str
    command: str
    """Command with which the user can repeat the search."""
    axes: tuple[Axis, ...]
    baseline: Record
    """Record of the unchanged model, to which gains are relative."""
    records: tuple[Record, ...]
    """Records of all trials so far, including the baseline."""
    front: tuple[Record, ...]
    space: Space
    goal: str = ""
    """Objectives, target and limits, in one sentence."""
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The experiment's limits in words, by name: `accuracy.within` → `at most 0.05 below ...`."""
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Limits as values on an axis, by the axis' name, to be drawn as lines."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Versions, processor and target of the search."""
    run_folder: str = ""
    """Path of the run folder, as the user would type it."""
    confirmed: bool = False
    """True if the front was measured again after the search, in turns with the baseline."""
    membership: Membership = dataclasses.field(default_factory=Membership)
    """What noise leaves open about the members of the front."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the searched dimensions, in the order of the space."""
        ranges = {name: dimension.values() for name, dimension in self.space.dimensions().items()}
        return tuple(name for name, grid in ranges.items() if grid is None or len(grid) > 1)

    @property
    def has_baseline(self) -> bool:
        """True if the baseline was measured, so that gains can be computed."""
        return all(axis.name in self.baseline.measurements for axis in self.axes)

    def to_json(self) -> dict[str, Any]:
        """Return the content of front.json."""
        return {
            "confirmed": self.confirmed,
            "baseline": self._record(self.baseline),
            "front": [self._record(record) for record in self.front],
            "ties": {str(trial): list(others) for trial, others in self.membership.ties.items()},
            "doubtful": {str(trial): rival for trial, rival in self.membership.doubtful.items()},
        }

    def _record(self, record: Record) -> dict[str, Any]:
        """Return a record for front.json: with differences to the baseline, without resamples.

        The size of its files is there also where it is no objective.
        """
        fields: dict[str, Any] = json.loads(record.line())
        if size := self.size(record):
            fields["measurements"].setdefault(SIZE, size.to_json())
        for part, baseline in (
            ("measurements", self.baseline.measurements),
            ("test", self.baseline.test),
        ):
            for name, measurement in getattr(record, part).items():
                fields[part][name].pop("resamples", None)
                found = difference(measurement, baseline[name]) if name in baseline else None
                if found and record.trial != self.baseline.trial:
                    fields[part][name]["difference"] = dataclasses.asdict(found)
        return fields

    def size(self, record: Record) -> Measurement | None:
        """Return the bytes of a record's files, to be shown beside the objectives.

        None if they are unknown, or if they are an objective themselves.
        """
        size = record.facts.size
        if size is None or any(axis.name == SIZE for axis in self.axes):
            return None
        return Measurement(value=size, unit="bytes", low=size, high=size, samples=1)

    @property
    def best(self) -> Record | None:
        """The record nearest to the limits, for when the front is empty."""
        return nearest(self.records)

    @functools.cached_property
    def picked(self) -> dict[str, Record]:
        """The members of the front that the usual words, such as knee, mean."""
        if not self.front or not self.has_baseline:
            return {}
        axes = {axis.name for axis in self.axes}
        words = [word for word in picks(self.axes) if word not in axes]
        words += [] if len(words) > 1 else [axis.name for axis in self.axes]
        return {word: pick(self.front, word, self.axes, self.baseline) for word in words}

    def short(self, record: Record) -> str:
        """Return the record's point in short form, with a remark if its training was taken back."""
        taken_back = " (taken back)" if record.facts.taken_back else ""
        return f"{self.space.short(record.point)}{taken_back}"

    def role(self, record: Record) -> str:
        """Return the role of a record: front, dominated, over limit, or its state otherwise."""
        if any(member.trial == record.trial for member in self.front):
            return "front"
        if record.state != "complete":
            return record.state
        return "dominated" if feasible([record]) else "over limit"


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
    """Return the summary of a study."""
    axes = tuple(Axis.of(g.name, g.objective) for g in experiment.objectives)
    environment = run_folder.environment(experiment, command)
    entries = {**environment.pop("versions"), **environment}
    limits = {
        k: v for goal in experiment.objectives for k, v in limits_in_words(goal, baseline).items()
    }
    return Summary(
        key=f"{experiment.name}-{experiment.key}-{run.resolve()}",
        name=experiment.name,
        command=command,
        axes=axes,
        baseline=baseline,
        records=tuple(records),
        front=tuple(sorted(front, key=lambda r: _order(r, experiment))),
        space=experiment.space,
        goal=_goal(experiment, limits),
        limits=limits,
        bounds=_bounds(experiment, baseline),
        environment={k: str(v) for k, v in entries.items() if v is not None},
        run_folder=str(run),
        confirmed=confirmed,
        membership=membership(records, axes),
    )


def _order(record: Record, experiment: Experiment) -> float:
    """Return the sort key of a front: its first timed objective, else its first one; best first."""
    goals = experiment.objectives
    goal = next((g for g in goals if g.timed), goals[0])
    value = record.measurements[goal.name].value
    return -value if goal.rising else value


def limits_in_words(goal: Goal, baseline: Record) -> dict[str, str]:
    """Return each limit of a goal in words; a share of a score becomes an absolute difference."""
    unit, worse = goal.objective.unit, "below" if goal.rising else "above"
    words = {}
    start = baseline.measurements[goal.name].value
    if (allowed := goal.allowed(start)) is not None:
        share = None if goal.scored(start) else goal.within_share
        amount = f"{allowed:g} {unit}" if share is None else f"{100 * share:g} %"
        words["within"] = f"at most {amount} {worse} the unchanged model"
    if goal.at_least is not None:
        words["at_least"] = f"at least {goal.at_least:g} {unit}"
    if goal.at_most is not None:
        words["at_most"] = f"at most {goal.at_most:g} {unit}"
    return {f"{goal.name}.{bound}": text for bound, text in words.items()}


def _goal(experiment: Experiment, limits: Mapping[str, str]) -> str:
    aims = " and ".join(f"{'more' if g.rising else 'less'} {g.name}" for g in experiment.objectives)
    bounds = "; ".join(f"{name.partition('.')[0]} {text}" for name, text in limits.items())
    target = experiment.target
    threads = f"{target.threads} thread{'s' * (target.threads > 1)}"
    where = f"{target.device}, {threads}, batch {target.batch_size}"
    return f"Search for {aims} on {where}" + (f", with {bounds}." if bounds else ".")


def _bounds(experiment: Experiment, baseline: Record) -> dict[str, float]:
    bounds = {g.name: g.bound(baseline.measurements[g.name].value) for g in experiment.objectives}
    return {name: bound for name, bound in bounds.items() if bound is not None}
