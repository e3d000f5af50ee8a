"""The trials of a study as Optuna keeps them: the only file that asks and tells it."""

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadRun
from search.experiment import Experiment
from search.study.parameters import Codec, sampler
from search.study.record import Record
from spaces import Point

FILE = "study.db"
EXECUTABLE = "executable"
"""Constraint that every trial carries: above 0 where no runtime can execute the point."""
REVISED = "revised"
GIVEN_BACK = "the search ended before it was evaluated"
"""Reason of trials that are as if never asked: their points are asked again."""


class Trials:
    """Optuna's trials of one experiment in a SQLite file of its run folder; one process writes."""

    def __init__(self, study: optuna.Study, experiment: Experiment, *, parallel: bool) -> None:
        self._study, self._experiment, self._parallel = study, experiment, parallel
        self._codec = Codec(experiment.space)

    @classmethod
    def open(cls, folder: Path, experiment: Experiment, *, parallel: bool) -> "Trials":
        """Create the trials of a run folder, or continue them; raises BadRun for others' trials.

        A folder holds one study: the name that it was begun with stays, whatever the experiment
        is called by now, and the experiment's key decides whether it may be continued.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
        names = optuna.get_all_study_names(storage)
        study = optuna.create_study(
            storage=storage,
            study_name=names[0] if names else experiment.name,
            directions=[g.objective.direction.value for g in experiment.goals],
            load_if_exists=True,
        )
        known = study.user_attrs.get("key")
        if known is None:
            study.set_user_attr("key", experiment.key)
        elif known != experiment.key:
            raise BadRun(
                f"{folder} holds a search of {study.study_name!r} with other settings than those "
                "asked now; choose another folder with --out, or undo the change"
            )
        return cls(study, experiment, parallel=parallel)

    @property
    def name(self) -> str:
        """The name that the study was begun with."""
        return self._study.study_name

    @property
    def count(self) -> int:
        """How many trials were asked, those that were given back not counted."""
        return sum(not _given_back(t) for t in self._study.get_trials(deepcopy=False))

    def records(self) -> list[Record]:
        """Return the records that were told, or were about to be, the revised ones in place."""
        texts = [t.user_attrs.get("record") for t in self._study.get_trials(deepcopy=False)]
        found = {r.trial: r for text in texts if text for r in [_record(text)]}
        for line in self._study.user_attrs.get(REVISED, {}).values():
            record = _record(line)
            found[record.trial] = record
        return list(found.values())

    def given_back(self) -> list[Point]:
        """Return the points that were asked and given back, in their order, with repeats."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        whole = [t for t in trials if _given_back(t) and t.params.keys() == self._names]
        return [self._point(trial) for trial in whole]

    def ask(self, point: Point | None = None) -> tuple[optuna.Trial, Point]:
        """Return a new trial at `point`, or where the sampler wants it, and its point.

        The sampler starts from a seed of its own for every trial, so that a resumed search draws
        what an uninterrupted one would have drawn.
        """
        seed = self._experiment.seed * 100_003 + self.count
        self._study.sampler = sampler(seed, parallel=self._parallel)
        if point is not None:
            self._study.enqueue_trial(self._codec.encode(point))
        trial = self._study.ask(fixed_distributions=self._codec.distributions)
        return trial, self._point(trial) if point is None else point

    def store(self, trial: optuna.Trial, record: Record) -> None:
        """Store a record in its trial, then tell it: a crash between loses nothing."""
        trial.set_user_attr("record", record.line())
        self.tell(trial, record)

    def tell(self, trial: optuna.Trial, record: Record) -> None:
        """Tell a trial: complete with values, pruned without, failed, or not executable."""
        limits = {n: record.limits.get(n, 0.0) for n in self._limits}  # the same on every trial
        limits[EXECUTABLE] = 1.0 if record.state == "infeasible" else 0.0
        for name in limits.keys() - trial.constraints.keys():
            trial.set_constraint(name, limits[name])
        if record.state == "complete":
            values = [record.measurements[g.name].value for g in self._experiment.goals]
            self._study.tell(trial, values)
        elif record.state == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Fail a trial that has no record of its own."""
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def revise(self, records: Sequence[Record]) -> None:
        """Replace stored records."""
        known = self._study.user_attrs.get(REVISED, {})
        known |= {str(record.trial): record.line() for record in records}
        self._study.set_user_attr(REVISED, known)

    def close_stale(self) -> int:
        """Close the trials that a killed search left open; return how many there were.

        What was recorded is told, the rest is given back. Trials that still wait are taken up
        first: the next ask would get theirs in place of a new one.
        """
        for _ in self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.ask(fixed_distributions=self._codec.distributions)
        stale = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for frozen in stale:
            trial = optuna.Trial(self._study, frozen._trial_id)
            if text := frozen.user_attrs.get("record"):
                self.tell(trial, _record(text))
            else:
                self.fail(trial, GIVEN_BACK)
        return len(stale)

    @property
    def _names(self) -> set[str]:
        return set(self._codec.distributions)

    @property
    def _limits(self) -> list[str]:
        return [name for g in self._experiment.goals for name in g.violations(0.0, 0.0)]

    def _point(self, trial: optuna.Trial | FrozenTrial) -> Point:
        return self._experiment.space.canonical(self._codec.decode(trial.params))


def _given_back(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.FAIL and trial.user_attrs.get("reason") == GIVEN_BACK


def _record(text: str) -> Record:
    return Record.from_json(json.loads(text))
