"""The study: the only file that asks and tells Optuna."""

import dataclasses
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.codec import Codec, sampler
from search.errors import BadRun
from search.experiment import Experiment
from search.front import Axis, front
from search.impossible import FACT, implied
from search.opening import SHARE, baselines, opening
from search.record import Record
from spaces import Point

FILE = "study.db"
EXECUTABLE = "executable"
"""Constraint that every trial carries: above 0 where no runtime can execute the point."""
REVISED = "revised"
PATIENCE = 4
"""Asks in a row that bring nothing new before the front's neighbourhood is searched instead."""

Refuse = Callable[[Point], str | None]
"""Says why a point cannot be executed, None if it can."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A point to be evaluated, and the trial of the study that waits for its record."""

    trial: int
    point: Point
    forced: bool
    """A baseline: it is run to its end whatever the front looks like."""


class Study:
    """The trials of one experiment in a SQLite file of its run folder; one process writes."""

    def __init__(
        self, study: optuna.Study, experiment: Experiment, refuse: Refuse, *, parallel: bool
    ) -> None:
        self._study, self.experiment, self._refuse = study, experiment, refuse
        self._parallel = parallel
        self._codec = Codec(experiment.space)
        self._open: dict[int, optuna.Trial] = {}
        self._pending: dict[int, str] = {}
        self.axes = tuple(Axis.of(g.name, g.objective) for g in experiment.goals)
        self._records: dict[int, Record] = {}
        self._by_point: dict[str, Record] = {}
        self._impossible: dict[int, Record] = {}
        """Records that say of other points that they cannot be built either."""
        for record in sorted(self._stored(), key=_assumed):  # what was tried comes first
            if not _assumed(record) or self._still_refused(record.point):
                self._keep(record)
        self._judge_early()

    @classmethod
    def open(
        cls, folder: Path, experiment: Experiment, refuse: Refuse, *, parallel: bool = False
    ) -> "Study":
        """Create the study of a run folder, or continue it; `parallel` asks before all is told.

        Raises BadRun when the folder holds the study of another experiment.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
        study = optuna.create_study(
            storage=storage,
            study_name=experiment.name,
            directions=[g.objective.direction.value for g in experiment.goals],
            sampler=sampler(experiment.seed, parallel=parallel),
            load_if_exists=True,
        )
        known = study.user_attrs.get("key")
        if known is None:
            study.set_user_attr("key", experiment.key)
        elif known != experiment.key:
            raise BadRun(
                f"{folder} holds a search of {experiment.name!r} with other settings than those "
                "asked now; choose another folder with --out, or undo the change"
            )
        return cls(study, experiment, refuse, parallel=parallel)

    # What is known

    @property
    def records(self) -> list[Record]:
        """Return all records in the order of their trials."""
        return [self._records[n] for n in sorted(self._records)]

    @property
    def paid(self) -> int:
        """Return how many trials count against the budget: those for which something was built."""
        return sum(r.state != "infeasible" for r in self._records.values())

    @property
    def baseline(self) -> Record | None:
        """Return the neutral point's record in the neutral runtime, or in the first that works."""
        return next(iter(self.baselines()), None)

    def baselines(self) -> list[Record]:
        """Return the records of the neutral point in every runtime where it is complete."""
        found = (self._answer(point) for point in baselines(self.experiment))
        return [r for r in found if r and r.state == "complete"]

    def front(self) -> list[Record]:
        """Return the non-dominated feasible records."""
        return front(self.records, self.axes)

    # Asking

    def ask(self) -> Asked | None:
        """Return the next point, None when no new one could be found.

        Points that no runtime can execute, or that are impossible for a reason which a trial
        found out, are recorded with the reason and never returned;
        points that were answered before are told again from their record.
        """
        for point in opening(self.experiment, self._times()):
            if not self._known(point) and self._admits(point):
                return self._asked(self._ask(point), point)
        for _ in range(PATIENCE):
            trial = self._ask()
            point = self.experiment.space.canonical(self._codec.decode(trial.params))
            if record := self._answer(point):
                self._tell(trial, record)
            elif _key(point) in self._pending.values():
                self._fail(trial, "another trial is evaluating the same point")
            elif reason := self._refused(point):
                self._record(trial, self._infeasible(trial.number, point, reason))
            else:
                return self._asked(trial, point)
        neighbour = self._neighbour()
        if neighbour is None:
            return None
        return self._asked(self._ask(neighbour), neighbour)

    def tell(self, asked: Asked, record: Record) -> Record:
        """Store a record, with the limits judged against the baseline, and return it."""
        self._pending.pop(asked.trial, None)
        stored = self._record(self._open.pop(asked.trial), record)
        self._judge_early()
        return stored

    def abandon(self, asked: Asked) -> None:
        """Give a point back that was not evaluated: it will be asked again."""
        self._pending.pop(asked.trial, None)
        trial = self._open.pop(asked.trial, None)
        if trial is not None:  # else the record is stored already, and only telling it failed
            self._fail(trial, "the search ended before it was evaluated")

    def revise(self, records: Sequence[Record]) -> None:
        """Replace stored records, after the front was confirmed and scored on the test split."""
        known = self._study.user_attrs.get(REVISED, {})
        for record in records:
            record = dataclasses.replace(record, limits=self._limits(record))
            self._keep(record)
            known[str(record.trial)] = record.line()
        self._study.set_user_attr(REVISED, known)

    def close_stale(self) -> int:
        """Fail the trials that a killed search left running; return how many there were."""
        stale = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in stale:
            self._study.tell(trial.number, state=TrialState.FAIL)
        return len(stale)

    # Inside

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        """Fail a trial that has no record of its own."""
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def _stored(self) -> list[Record]:
        """Return the records in the study, those replaced by revised ones included."""
        texts = [t.user_attrs.get("record") for t in self._study.get_trials(deepcopy=False)]
        records = {r.trial: r for t in texts if t for r in [Record.from_json(json.loads(t))]}
        for line in self._study.user_attrs.get(REVISED, {}).values():
            record = Record.from_json(json.loads(line))
            records[record.trial] = record
        return list(records.values())

    def _times(self) -> dict[str, float]:
        """Return the baselines' values of what is timed first, by runtime, lower being faster."""
        axis = next(
            (a for g, a in zip(self.experiment.goals, self.axes, strict=True) if g.objective.timed),
            None,
        )
        return {r.runtime: axis.loss(r) for r in self.baselines()} if axis else {}

    def _admits(self, point: Point) -> bool:
        """Whether a point of the opening can be executed and is within its share of the trials."""
        first = [_key(p) for p in baselines(self.experiment)]
        reason = self._refused(point)
        if reason:
            trial = self._ask(point)
            self._record(trial, self._infeasible(trial.number, point, reason))
            return False
        budget = max(2 * len(first), int(SHARE * self.experiment.trials))
        return _key(point) in first or self.paid + len(self._pending) < budget

    def _neighbour(self) -> Point | None:
        """Return a new executable point near the front, or any where those are all known."""
        count = len(self._study.get_trials(deepcopy=False))
        parents = [r.point for r in self.front()] or [self.experiment.space.neutral()]
        draw = random.Random(f"{self.experiment.seed}-{count}")
        return self._codec.neighbour(
            parents, draw, lambda point: not self._known(point) and not self._refused(point)
        )

    def _ask(self, point: Point | None = None) -> optuna.Trial:
        """Return a new trial at `point`, or where the sampler wants it.

        The sampler starts from a seed of its own for every trial, so that a resumed search draws
        what an uninterrupted one would have drawn.
        """
        count = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = sampler(
            self.experiment.seed * 100_003 + count, parallel=self._parallel
        )
        if point is not None:
            self._study.enqueue_trial(self._codec.encode(point))
        return self._study.ask(fixed_distributions=self._codec.distributions)

    def _asked(self, trial: optuna.Trial, point: Point) -> Asked:
        self._open[trial.number] = trial
        self._pending[trial.number] = _key(point)
        forced = _key(point) in {_key(p) for p in baselines(self.experiment)}
        return Asked(trial=trial.number, point=point, forced=forced)

    def _refused(self, point: Point) -> str | None:
        """Return why a point cannot be executed, as is known beforehand or found out by now."""
        found = self._impossible.values()
        return self._refuse(point) or implied(self.experiment.space, found, point)

    def _still_refused(self, point: Point) -> bool:
        """Whether a point is refused once more: another machine may have what one lacked."""
        return self._answer(point) is None and self._refused(point) is not None

    def _keep(self, record: Record) -> None:
        self._records[record.trial] = record
        self._by_point[_key(record.point)] = record
        if FACT in record.facts:
            self._impossible[record.trial] = record

    def _known(self, point: Point) -> bool:
        return self._answer(point) is not None or _key(point) in self._pending.values()

    def _answer(self, point: Point) -> Record | None:
        return self._by_point.get(_key(point))

    def _infeasible(self, number: int, point: Point, reason: str) -> Record:
        runtime = self.experiment.space.plan(point).runtime
        return Record(trial=number, point=point, runtime=runtime, state="infeasible", reason=reason)

    def _record(self, trial: optuna.Trial, record: Record) -> Record:
        """Store a record in its trial before the trial is told: a crash between loses nothing."""
        self._keep(record)  # the first baseline is judged against itself
        record = dataclasses.replace(record, limits=self._limits(record))
        self._keep(record)
        trial.set_user_attr("record", record.line())
        self._tell(trial, record)
        return record

    def _judge_early(self) -> None:
        """Judge what was recorded before there was a baseline, as happens with several workers."""
        if self.baseline is None:
            return
        for record in list(self._records.values()):
            if record.state == "complete" and not record.limits:
                self._keep(dataclasses.replace(record, limits=self._limits(record)))

    def _limits(self, record: Record) -> dict[str, float]:
        base = self.baseline
        if record.state != "complete" or base is None:
            return {}
        return {
            name: violation
            for goal in self.experiment.goals
            for name, violation in goal.violations(
                record.measurements[goal.name].value, base.measurements[goal.name].value
            ).items()
        }

    def _tell(self, trial: optuna.Trial, record: Record) -> None:
        """Tell a trial: complete with values, pruned without, failed, or not executable."""
        trial.set_constraint(EXECUTABLE, 1.0 if record.state == "infeasible" else 0.0)
        for name, violation in self._all_limits(record).items():
            trial.set_constraint(name, violation)
        if record.state == "complete":
            self._study.tell(trial, [record.measurements[a.name].value for a in self.axes])
        elif record.state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def _all_limits(self, record: Record) -> Mapping[str, float]:
        """Return every limit's violation: samplers want the same constraints on every trial."""
        names = [n for g in self.experiment.goals for n in g.violations(0.0, 0.0)]
        return {name: record.limits.get(name, 0.0) for name in names}


def _assumed(record: Record) -> bool:
    """Whether a point was refused beforehand, and nothing was tried."""
    return record.state == "infeasible" and not record.facts


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)
