"""A searcher of a real study, on a cluster that is none."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import optuna

from search.executors.ray.searcher import StudySearcher  # isort: skip  # before Ray itself

from search.experiment.experiment import Experiment
from search.study.queue import Queue
from search.study.study import PendingTrial, Study
from spaces import Plan

PLACED = '[space.placement.devices]\ncount = [1, 2]\nstrategy = ["auto", "data"]\n'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster that gives whatever is asked."""

    experiment: Experiment
    refusal: str | None = None
    left: str | None = None
    """The one machine that is left of several."""

    def config(self, asked: PendingTrial, avoid: str | None) -> dict[str, Any]:
        return {"trial": asked.trial, "point": asked.point, "avoid": avoid}

    def lacks(self, plan: Plan, avoid: str | None = None) -> str | None:
        del plan
        alone = avoid is not None and avoid == self.left
        return self.refusal or ("Only one machine is left." if alone else None)


class Points(Queue):
    """A feed of given points."""

    def __init__(self, study: Study, points: list[dict[str, Any]]) -> None:
        super().__init__(
            study,
            seconds=None,
            on_record=lambda record: None,
            on_start=lambda asked: None,
            progress=lambda *message: None,
        )
        self._points = [PendingTrial(trial=i, point=p, forced=False) for i, p in enumerate(points)]

    def ask(self) -> PendingTrial | None:
        return self._points.pop(0) if self._points else None


def searching(study: Study, **callbacks: Any) -> tuple[StudySearcher, Queue]:
    """Return a searcher of a study, and the feed between them."""
    silent: dict[str, Any] = {
        "on_record": lambda record: None,
        "on_start": lambda pending: None,
        "progress": lambda *message: None,
    }
    feed = Queue(study, seconds=None, **silent | callbacks)
    return StudySearcher(feed, Cluster(experiment=study.experiment)), feed


def trials(project: Path) -> list[optuna.trial.FrozenTrial]:
    """Return what the study's file holds."""
    study = optuna.load_study(
        study_name="tiny", storage=f"sqlite:///{project / 'run' / 'study.db'}"
    )
    return study.get_trials()


def said(**message: Any) -> dict[str, Any]:
    return {"message": json.dumps(message)}


def config_of(searcher: StudySearcher, name: str) -> dict[str, Any]:
    """Return what the searcher suggests as the trial `name`."""
    config = searcher.suggest(name)
    assert isinstance(config, dict)
    return config


@dataclasses.dataclass(frozen=True)
class Named:
    """As much of a trial of Tune's as the scheduler looks at."""

    trial_id: str
    status: str = "PENDING"


@dataclasses.dataclass(frozen=True)
class Controller:
    """As much of Tune's controller as the scheduler needs: one trial that waits."""

    searcher: StudySearcher
    trial: Named

    def get_live_trials(self) -> set[Named]:
        return {self.trial}

    def get_trials(self) -> list[Named]:
        return [self.trial]

    def stop_trial(self, trial: Named) -> None:
        self.searcher.on_trial_complete(trial.trial_id)


def task_error(cause: str) -> str:
    """Return what Tune writes of an error that a worker has raised."""
    return f"Failure # 1\n\x1b[36mray::Trial.train()\x1b[39m (pid=7)\n  File ...\n{cause}\n"
