"""Ray Tune searcher that takes its trials from the queue of a study."""

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
"""Seconds before a trial whose worker was lost is run again: until then the cluster may still count
a machine that is gone."""
STARVED = 300.0
"""Seconds that a trial may wait for resources that no machine of the cluster has."""


class Cluster(Protocol):
    """The cluster as a searcher sees it."""

    @property
    def experiment(self) -> Experiment:
        """The experiment."""

    def config(self, pending: PendingTrial, avoid: str | None) -> dict[str, Any]:
        """Return the configuration of a trial; `avoid` is a machine on which it was lost."""

    def lacks(self, plan: Plan, avoid: str | None = None) -> str | None:
        """Return the reason why no machine except `avoid` can run a plan, or None if one can."""


class StudySearcher(Searcher):  # type: ignore[misc]
    """Ray Tune's source of trials, which tells the queue how every trial ended."""

    def __init__(self, queue: Queue, cluster: Cluster) -> None:
        super().__init__(metric=None, mode=None)
        self._queue, self._cluster = queue, cluster
        self._pending: dict[str, PendingTrial] = {}
        self._start_times: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._stranded: set[str] = set()
        self._stopped: dict[str, tuple[str, Rung]] = {}
        self._locations: dict[str, dict[str, str]] = {}
        self._avoided: dict[str, str | None] = {}
        self._retries: list[losses.Retry] = []
        self._first_reasons: dict[int, str] = {}
        self._failures: dict[str, str] = {}
        self.error: BaseException | None = None
        """Error to be raised after Tune has ended."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial, or None while a large trial waits for workers to become free."""
        if self.error is None and any(self._holds_up(waiting) for waiting in self._waiting):
            return None
        with self._deferred_errors():
            retry = self._next_retry() if self.error is None else None
            pending = retry.pending if retry else self._queue.ask() if self.error is None else None
            if pending:
                return self._start(trial_id, pending, retry.machine if retry else None)
        under_way = self._pending or self._retries  # running trials may be lost and run again
        over = self.error is not None or (self._queue.finished and not under_way)
        return str(Searcher.FINISHED) if over else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass the progress of a trial to the queue."""
        message = json.loads(result["message"])
        if "machine" in message:
            self._locations[trial_id] = message
        if "stage" in message:
            keys = ("stage", "done", "of", "detail")
            with self._deferred_errors():
                self._queue.progress(self._pending[trial_id], *(message[key] for key in keys))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the queue the record of a trial that has ended, or schedule a retry."""
        pending, seconds, machine = self._remove(trial_id)
        if self.error is not None:
            return  # stopped as the search ends: the queue returns its point to the study
        if trial_id in self._stranded:
            self._stranded.remove(trial_id)
            self._retries.append(losses.Retry(pending=pending, lost_at=float("-inf"), machine=None))
            return
        if error and pending.trial not in self._first_reasons:
            reason = self._failures.get(trial_id, losses.CRASHED)
            self._first_reasons[pending.trial] = reason
            self._retries.append(
                losses.Retry(pending=pending, lost_at=time.monotonic(), machine=machine)
            )
            return
        with self._deferred_errors():
            self._queue.tell(pending, self._record(trial_id, pending, result, error, seconds))

    def judge(self, trial_id: str, result: dict[str, Any]) -> bool:
        """True if a trial has to stop at the rung it has reached."""
        message = json.loads(result["message"])
        if "rung" not in message:
            return self.error is not None
        rung = Rung.from_json(message["rung"])
        reason = self._queue.judge(self._pending[trial_id], rung)
        if reason:
            self._stopped[trial_id] = (reason, rung)
        return reason is not None

    def worker_failed(self, trial_id: str, error: str) -> None:
        """Note the reason of a worker's failure, from the text of its error."""
        self._failures[trial_id] = losses.reason_of(error)

    def memory_ran_out(self, error: BaseException) -> None:
        """Schedule retries after Ray killed workers for memory, which ends Tune and all trials.

        Trials whose workers were not killed start again as if new. If the error names no known
        worker, each trial counts as killed.
        """
        workers = {i: place["worker"] for i, place in self._locations.items()}
        killed_ids = losses.killed_trials(error, workers) or set(self._pending)
        for trial_id, pending in list(self._pending.items()):
            if trial_id in killed_ids:
                self._failures[trial_id] = losses.NO_MEMORY
                self.on_trial_complete(trial_id, error=True)
            else:
                self._remove(trial_id)
                self._retries.append(
                    losses.Retry(pending=pending, lost_at=float("-inf"), machine=None)
                )

    def started(self, trial_id: str) -> None:
        """Note that a trial has its resources."""
        self._waiting.discard(trial_id)

    def check(self) -> None:
        """Raise the error that ends the search: a stored one, or that a trial can never start."""
        if self.error is not None:
            raise self.error
        for trial_id in self._waiting:
            pending = self._pending[trial_id]
            reason = self._cluster.lacks(self._plan(pending))
            if reason and time.monotonic() - self._start_times[trial_id] > STARVED:
                raise BadEnvironment(
                    f"trial {pending.trial} cannot start: {reason} All measurements are kept; "
                    "resume when its machines are back"
                )

    def is_stranded(self, trial_id: str) -> bool:
        """True if a trial waits and only the machine on which it was lost could run it.

        The trial is then stopped, and starts again on any machine.
        """
        avoid = self._avoided.get(trial_id)
        if avoid is None or trial_id not in self._waiting:
            return False
        plan = self._plan(self._pending[trial_id])
        stranded = bool(self._cluster.lacks(plan, avoid)) and not self._cluster.lacks(plan)
        if stranded:
            self._stranded.add(trial_id)
        return stranded

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: all state is in the study."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a search is resumed from its study."""

    def _start(self, trial_id: str, pending: PendingTrial, avoid: str | None) -> dict[str, Any]:
        config = self._cluster.config(pending, avoid)
        self._pending[trial_id], self._start_times[trial_id] = pending, time.monotonic()
        self._avoided[trial_id] = config["avoid"]
        self._waiting.add(trial_id)
        return config

    def _remove(self, trial_id: str) -> tuple[PendingTrial, float, str | None]:
        """Forget a trial of Tune; return its pending trial, its seconds, and its machine."""
        self._waiting.discard(trial_id)
        self._avoided.pop(trial_id)
        seconds = time.monotonic() - self._start_times.pop(trial_id)
        return (
            self._pending.pop(trial_id),
            seconds,
            self._locations.pop(trial_id, {}).get("machine"),
        )

    def _next_retry(self) -> losses.Retry | None:
        """Return a retry whose pause is over, or None."""
        for index, retry in enumerate(self._retries):
            if time.monotonic() - retry.lost_at >= PAUSE:
                return self._retries.pop(index)
        return None

    def _plan(self, pending: PendingTrial) -> Plan:
        return self._cluster.experiment.space.plan(pending.point)

    def _holds_up(self, trial_id: str) -> bool:
        """True if a waiting trial needs several devices, so that others must not start before it.

        A trial whose machines have left the cluster holds up no other.
        """
        plan = self._plan(self._pending[trial_id])
        large = plan.placement.count > 1
        return large and not self._cluster.lacks(plan, self._avoided[trial_id])

    def _record(
        self,
        trial_id: str,
        pending: PendingTrial,
        result: dict[str, Any] | None,
        error: bool,
        seconds: float,
    ) -> Record:
        runtime = self._plan(pending).runtime
        if trial_id in self._stopped:
            reason, rung = self._stopped.pop(trial_id)
            record = failed(pending, runtime, reason, seconds)
            estimates = {g.name for g in self._cluster.experiment.objectives if g.objective.trained}
            measurements = {k: m for k, m in rung.measurements.items() if k not in estimates}
            return dataclasses.replace(record, state="pruned", measurements=measurements)
        message = json.loads(result["message"]) if result and not error else {}
        if "result" in message:
            return Record.from_json(message["result"])
        if "failed" in message:
            return failed(pending, runtime, message["failed"], seconds)
        reason = self._failures.get(trial_id, losses.CRASHED)
        return failed(
            pending,
            runtime,
            losses.combined_reason(self._first_reasons[pending.trial], reason),
            seconds,
        )

    @contextlib.contextmanager
    def _deferred_errors(self) -> Iterator[None]:
        """Store an error until Tune has ended, which would swallow or wrap it."""
        try:
            yield
        except (SearchError, Stopped) as error:
            self.error = error
