"""Storage of trials in an Optuna study; the only file that asks and tells this study."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadRun
from search.experiment import Experiment
from search.records import Axis, Record
from search.samplers import History, Observation, State
from search.study.parameters import distributions_of, point_of
from spaces import Point

FILE = "study.db"
FORMAT = 3
"""Format of the stored study: since format 2 the parameters are values, since format 3 the times
follow from ratios to the baseline's."""
EXECUTABLE = "executable"
"""Constraint of every trial: above 0 if no runtime can execute the point."""
REVISED = "revised"
GIVEN_BACK = "the search ended before it was evaluated"
"""Reason of trials that ended without an evaluation: their points are proposed again."""
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


class Trials:
    """Optuna's trials of one experiment in a SQLite file of its run folder; one process writes."""

    def __init__(self, study: optuna.Study, experiment: Experiment) -> None:
        self._study, self._experiment = study, experiment
        self._distributions = distributions_of(experiment.space)
        self._axes = [Axis.of(g.name, g.objective) for g in experiment.objectives]

    @classmethod
    def open(cls, folder: Path, experiment: Experiment, *, forced: bool = False) -> "Trials":
        """Create the trials of a run folder, or continue them.

        A folder holds one study. It keeps the name under which it was begun, whatever the
        experiment is called on resume; the experiment's key decides if it may be continued. Raises
        BadRun if the study has another format, or another key and changes were not `forced`.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
        names = optuna.get_all_study_names(storage)
        study = optuna.create_study(
            storage=storage,
            study_name=names[0] if names else experiment.name,
            directions=[g.objective.direction.value for g in experiment.objectives],
            load_if_exists=True,
        )
        if not names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([g.name for g in experiment.objectives])
            study.set_user_attr("format", FORMAT)
            study.set_user_attr("key", experiment.key)
        elif (known := study.user_attrs.get("format", 1)) != FORMAT:
            raise BadRun(
                f"{folder} was begun by another version: its study has format {known}, this one "
                f"continues format {FORMAT}; search again with --out FOLDER, or resume it with the "
                "version that began it"
            )
        elif forced:
            study.set_user_attr("key", experiment.key)
        elif study.user_attrs.get("key") != experiment.key:
            raise BadRun(
                f"{folder} holds a search of {study.study_name!r} with other settings than those "
                "asked now; choose another folder with --out, or undo the change"
            )
        return cls(study, experiment)

    @property
    def name(self) -> str:
        """Name under which the study was begun."""
        return self._study.study_name

    @property
    def count(self) -> int:
        """Number of trials, without those whose points were given back."""
        return sum(not _given_back(t) for t in self._study.get_trials(deepcopy=False))

    def records(self) -> list[Record]:
        """Return all stored records, each in its latest revision.

        A record may belong to a trial that Optuna was not told about yet.
        """
        lines = [t.user_attrs.get("record") for t in self._study.get_trials(deepcopy=False)]
        records = {r.trial: r for line in lines if line for r in [_record(line)]}
        for line in self._study.user_attrs.get(REVISED, {}).values():
            record = _record(line)
            records[record.trial] = record
        return list(records.values())

    def given_back(self) -> list[Point]:
        """Return the points that were given back unevaluated, in their order and with repeats."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [point_of(t.params) for t in trials if _given_back(t) and self._whole(t)]

    def history(self) -> History:
        """Return the trials as a sampler sees them."""
        trials = self._study.get_trials(deepcopy=False)
        return History(
            space=self._experiment.space,
            objectives=len(self._axes),
            observations=[self._observation(t) for t in trials if self._whole(t)],
        )

    def ask(self, point: Point) -> optuna.Trial:
        """Create a trial at a point."""
        self._study.enqueue_trial(dict(point))
        return self._study.ask(fixed_distributions=self._distributions)

    def store(self, trial: optuna.Trial, record: Record) -> None:
        """Store a record in its trial, then tell Optuna: a crash in between loses nothing."""
        trial.set_user_attr("record", record.line())
        self.tell(trial, record)

    def tell(self, trial: optuna.Trial, record: Record) -> None:
        """Tell Optuna a trial's outcome: values if complete, else the states FAIL or PRUNED."""
        limits = {n: record.limits.get(n, 0.0) for n in self._limits}  # the same in every trial
        limits[EXECUTABLE] = 1.0 if record.state == "infeasible" else 0.0
        for name in limits.keys() - trial.constraints.keys():
            trial.set_constraint(name, limits[name])
        if record.state == "complete":
            values = [record.measurements[axis.name].value for axis in self._axes]
            self._study.tell(trial, values)
        elif record.state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Tell Optuna that a trial failed and has no record."""
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def revise(self, records: Sequence[Record]) -> None:
        """Replace stored records."""
        lines = self._study.user_attrs.get(REVISED, {})
        lines |= {str(record.trial): record.line() for record in records}
        self._study.set_user_attr(REVISED, lines)

    def close_stale(self) -> int:
        """Close the trials that a killed search left open; return their number.

        Trials with a record are told to Optuna, the others are given back. WAITING trials are
        dequeued first; otherwise the next ask would return one of them.
        """
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.ask(fixed_distributions=self._distributions)
        stale = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in stale:
            trial = optuna.Trial(self._study, frozen._trial_id)  # Optuna has no public API for it
            if line := frozen.user_attrs.get("record"):
                self.tell(trial, _record(line))
            else:
                self.fail(trial, GIVEN_BACK)
        return len(stale)

    @property
    def _limits(self) -> list[str]:
        return [name for g in self._experiment.objectives for name in g.violations(0.0, 0.0)]

    def _whole(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self._distributions.keys()

    def _observation(self, trial: FrozenTrial) -> Observation:
        complete = trial.state is TrialState.COMPLETE
        return Observation(
            point=point_of(trial.params),
            state=_STATES[trial.state],
            losses=tuple(a.sign * v for a, v in zip(self._axes, trial.values, strict=True))
            if complete
            else None,
            violations=tuple(trial.constraints.values()),
        )


def _given_back(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason") == GIVEN_BACK


def _record(line: str) -> Record:
    return Record.from_json(json.loads(line))
