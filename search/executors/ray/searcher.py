"""The study as Ray Tune sees it: a searcher around one queue."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

from search.executors.ray import losses  # isort: skip  # before Ray itself

from ray.tune.search import Searcher

from search.errors import BadEnvironment, SearchError
from search.executors.local import failed
from search.experiment import Experiment
from search.records import Record, Rung
from search.signals import Stopped
from search.study import PendingTrial, Queue
from spaces import Plan

PAUSE = 10.0
"""Seconds before a trial whose worker was lost is tried again: until then the cluster may still
count on a machine that is gone."""
STARVED = 300.0
"""Seconds that a trial waits for resources that no machine of the cluster has."""


class Cluster(Protocol):
    """What a searcher must know of where its trials run."""

    @property
    def experiment(self) -> Experiment:
        """The experiment."""

    def config(self, asked: PendingTrial, avoid: str | None) -> dict[str, Any]:
        """Return what a worker needs to know of a trial; `avoid` is a machine it was lost on."""

    def lacks(self, plan: Plan, avoid: str | None = None) -> str | None:
        """Return why no machine, or none but the one to avoid, can give what a plan asks for."""


class Asking(Searcher):  # type: ignore[misc]
    """The study as Ray Tune sees it: every trial asked is told, whatever becomes of it."""

    def __init__(self, queue: Queue, cluster: Cluster) -> None:
        super().__init__(metric=None, mode=None)
        self._queue, self._cluster = queue, cluster
        self._asked: dict[str, PendingTrial] = {}
        self._begun: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._cornered: set[str] = set()
        self._stopped: dict[str, tuple[str, Rung]] = {}
        self._places: dict[str, dict[str, str]] = {}
        self._avoided: dict[str, str | None] = {}
        self._lost: list[losses.Lost] = []
        self._tried: dict[int, str] = {}
        self._faults: dict[str, str] = {}
        self.error: BaseException | None = None
        """What a record led to, to be raised once Tune has ended."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial; None while a large one waits for the workers to be free."""
        if self.error is None and any(self._holds_up(waiting) for waiting in self._waiting):
            return None
        with self._errors_kept():
            lost = self._again() if self.error is None else None
            asked = lost.asked if lost else self._queue.ask() if self.error is None else None
            if asked:
                return self._begin(trial_id, asked, lost.machine if lost else None)
        under_way = self._asked or self._lost  # what is under way may be lost, and be tried again
        over = self.error is not None or (self._queue.finished and not under_way)
        return str(Searcher.FINISHED) if over else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Show how far a trial has come."""
        message = json.loads(result["message"])
        if "machine" in message:
            self._places[trial_id] = message
        if "stage" in message:
            keys = ("stage", "done", "of", "detail")
            with self._errors_kept():
                self._queue.progress(self._asked[trial_id], *(message[key] for key in keys))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell a trial that has ended, in whatever way."""
        asked, seconds, machine = self._ended(trial_id)
        if self.error is not None:
            return  # stopped because the search ends: the queue gives it back, to be asked again
        if trial_id in self._cornered:
            self._cornered.remove(trial_id)
            self._lost.append(losses.Lost(asked=asked, when=float("-inf"), machine=None))
            return
        if error and asked.trial not in self._tried:
            reason = self._faults.get(trial_id, losses.CRASHED)
            self._tried[asked.trial] = reason
            self._lost.append(losses.Lost(asked=asked, when=time.monotonic(), machine=machine))
            return
        with self._errors_kept():
            self._queue.tell(asked, self._record(trial_id, asked, result, error, seconds))

    def judge(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial is to stop at the rung it has reached."""
        message = json.loads(result["message"])
        if "rung" not in message:
            return self.error is not None
        rung = Rung.from_json(message["rung"])
        reason = self._queue.judge(self._asked[trial_id], rung)
        if reason:
            self._stopped[trial_id] = (reason, rung)
        return reason is not None

    def fell(self, trial_id: str, error: str) -> None:
        """Note why a trial's worker failed, from the text of its error."""
        self._faults[trial_id] = losses.reason_of(error)

    def ran_out_of_memory(self, error: BaseException) -> None:
        """Take back what was under way when Ray killed workers: it ends Tune, and all trials.

        Those it did not kill start again as if never begun; where it names no worker that is
        known, each counts as killed.
        """
        workers = {i: place["worker"] for i, place in self._places.items()}
        hit = losses.killed(error, workers) or set(self._asked)
        for trial_id, asked in list(self._asked.items()):
            if trial_id in hit:
                self._faults[trial_id] = losses.NO_MEMORY
                self.on_trial_complete(trial_id, error=True)
            else:
                self._ended(trial_id)
                self._lost.append(losses.Lost(asked=asked, when=float("-inf"), machine=None))

    def started(self, trial_id: str) -> None:
        """Note that a trial has got its resources."""
        self._waiting.discard(trial_id)

    def check(self) -> None:
        """Raise what ends the search: what a record led to, or that a trial can never start."""
        if self.error is not None:
            raise self.error
        for trial_id in self._waiting:
            asked = self._asked[trial_id]
            reason = self._cluster.lacks(self._plan(asked))
            if reason and time.monotonic() - self._begun[trial_id] > STARVED:
                raise BadEnvironment(
                    f"trial {asked.trial} cannot start: {reason} All measurements are kept; "
                    "resume when its machines are back"
                )

    def cornered(self, trial_id: str) -> bool:
        """Whether a trial waits where only the machine it was lost on is left to give it a place.

        It is then to be taken back: it starts again wherever it can.
        """
        avoid = self._avoided.get(trial_id)
        if avoid is None or trial_id not in self._waiting:
            return False
        plan = self._plan(self._asked[trial_id])
        alone = bool(self._cluster.lacks(plan, avoid)) and not self._cluster.lacks(plan)
        if alone:
            self._cornered.add(trial_id)
        return alone

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study is the truth, and Tune's own state is thrown away."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a search is resumed from its study."""

    def _begin(self, trial_id: str, asked: PendingTrial, avoid: str | None) -> dict[str, Any]:
        config = self._cluster.config(asked, avoid)
        self._asked[trial_id], self._begun[trial_id] = asked, time.monotonic()
        self._avoided[trial_id] = config["avoid"]
        self._waiting.add(trial_id)
        return config

    def _ended(self, trial_id: str) -> tuple[PendingTrial, float, str | None]:
        """Forget a trial of Tune's; return what it was to do, its seconds, and its machine."""
        self._waiting.discard(trial_id)
        self._avoided.pop(trial_id)
        seconds = time.monotonic() - self._begun.pop(trial_id)
        return self._asked.pop(trial_id), seconds, self._places.pop(trial_id, {}).get("machine")

    def _again(self) -> losses.Lost | None:
        """Return a trial whose worker was lost and whose pause is over."""
        for place, lost in enumerate(self._lost):
            if time.monotonic() - lost.when >= PAUSE:
                return self._lost.pop(place)
        return None

    def _plan(self, asked: PendingTrial) -> Plan:
        return self._cluster.experiment.space.plan(asked.point)

    def _holds_up(self, trial_id: str) -> bool:
        """Whether small trials must leave the workers to one that waits: it is large, and can be.

        One whose machines have left the cluster holds nobody up.
        """
        plan = self._plan(self._asked[trial_id])
        large = plan.placement.count > 1
        return large and not self._cluster.lacks(plan, self._avoided[trial_id])

    def _record(
        self,
        trial_id: str,
        asked: PendingTrial,
        result: dict[str, Any] | None,
        error: bool,
        seconds: float,
    ) -> Record:
        runtime = self._plan(asked).runtime
        if trial_id in self._stopped:
            reason, rung = self._stopped.pop(trial_id)
            record = failed(asked, runtime, reason, seconds)
            estimates = {g.name for g in self._cluster.experiment.objectives if g.objective.trained}
            own = {k: m for k, m in rung.measurements.items() if k not in estimates}
            return dataclasses.replace(record, state="pruned", measurements=own)
        message = json.loads(result["message"]) if result and not error else {}
        if "result" in message:
            return Record.from_json(message["result"])
        if "failed" in message:
            return failed(asked, runtime, message["failed"], seconds)
        reason = self._faults.get(trial_id, losses.CRASHED)
        return failed(asked, runtime, losses.twice(self._tried[asked.trial], reason), seconds)

    @contextlib.contextmanager
    def _errors_kept(self) -> Iterator[None]:
        """Keep an error until Tune has ended: raised here, it would be swallowed or wrapped."""
        try:
            yield
        except (SearchError, Stopped) as error:
            self.error = error
