"""The search itself: ask, evaluate, tell until the budget is spent; then confirm and report."""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from search import confirm, folder, report
from search.console import Console
from search.errors import BadTask, Interrupted, NothingSucceeded, SearchError
from search.experiment import Experiment, Goal
from search.feed import Feed
from search.front import Axis
from search.record import Record
from search.study import Study
from search.summary import Summary
from search.trial import kinds_of, refusal
from spaces import Plan, Point


class Executor(Protocol):
    """What runs trials."""

    @property
    def workers(self) -> int:
        """How many trials run at once."""

    def prepare(self) -> None:
        """Start what the first trial needs; returns at once where it can."""

    def refuses(self, plan: Plan) -> str | None:
        """Return why the resources that a plan asks for can never be given, None if they can."""

    def run(self, feed: Feed) -> None:
        """Evaluate what the feed asks, and tell it, until it is finished."""

    def confirm(self, records: Sequence[Record], listener: Any) -> dict[str, Any]:
        """Return new measurements of records by trial, the first record being the baseline."""


class Tracker(Protocol):
    """What mirrors the study for reviewers; it never stops a search."""

    @property
    def address(self) -> str:
        """The store as it may be shown."""

    def location(self) -> tuple[str, str] | None:
        """Return the ids of the experiment and of the study's run, None before the first sync."""

    def sync(self, summary: Summary) -> bool:
        """Write whatever the store lacks; return whether it is complete now."""

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        """Write the confirmed front, its artifacts and the report, and close the study's run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """One search in one run folder, new or continued."""

    experiment: Experiment
    folder: Path
    executor: Executor
    tracker: Callable[[], Tracker]
    """Called once there is something to write: importing MLflow takes seconds."""
    console: Console
    command: str
    """What the user typed, to be repeated."""

    def run(self) -> Summary:
        """Search until the budget is spent, confirm the front, and return what came out.

        Raises BadTask when the unchanged model cannot be measured, NothingSucceeded when no
        trial succeeded, Interrupted on a signal.
        """
        self.executor.prepare()
        folder.begin(self.folder, self.experiment, self.command)
        parallel = self.executor.workers > 1
        study = Study.open(self.folder, self.experiment, self._refuser(), parallel=parallel)
        study.close_stale()
        folder.store_records(self.folder, study.records)
        self.console.begin(self.experiment, study, self.folder)
        with _signals_as_exceptions():
            try:
                self._loop(study)
                return self._finish(study)
            except KeyboardInterrupt:
                raise self._interrupted(study, signal.SIGINT) from None
            except _Terminated:
                raise self._interrupted(study, signal.SIGTERM) from None

    def _loop(self, study: Study) -> None:
        def told(record: Record) -> None:
            folder.append_record(self.folder, record)
            summary = self.summary(study.records, study.front(), study.baseline)
            self.console.trial(record, study, summary)
            if summary:
                self.tracker().sync(summary)
            self._give_up_early(study, feed)

        feed = Feed(
            study,
            seconds=self.experiment.time,
            told=told,
            started=self.console.started,
            progress=self.console.stage,
        )
        try:
            self.executor.run(feed)
        finally:
            feed.close()
        if feed.exhausted:
            self.console.say("Every point near the front is known; the search ends early.")

    def _give_up_early(self, study: Study, feed: Feed) -> None:
        """Stop when the first trials all fail: the fault is then not in the points.

        With several workers other trials can fail while the unchanged model is still at work.
        """
        if any(asked.forced for asked in feed.open.values()):
            return
        failed = [r for r in study.records if r.state == "failed"]
        if study.baseline is None and len(failed) >= min(3, self.experiment.trials):
            raise BadTask(f"no trial succeeds, not even the unchanged model: {failed[0].reason}")

    def _finish(self, study: Study) -> Summary:
        """Confirm the front until its members stay on it, then write and mirror the report."""
        baseline = study.baseline
        if baseline is None:
            raise NothingSucceeded(_why_nothing(study.records))
        self._confirm(study)
        records, baseline = study.records, study.baseline
        assert baseline is not None
        front = study.front()
        summary = self.summary(records, front, baseline, confirmed=True)
        assert summary is not None
        folder.store_records(self.folder, records)
        folder.discard_artifacts(self.folder, [*front, *study.baselines()])
        report.write(self.folder, summary)
        tracker = self.tracker()
        seen = tracker.finish(summary, self.folder)
        folder.store_tracked(self.folder, tracker.address, tracker.location())
        self.console.finish(summary, self.folder, tracker.address if seen else None)
        return summary

    def _confirm(self, study: Study) -> None:
        """Measure the front again; where new values promote other trials, those as well.

        Members that prove dominated leave the front, which may bring back trials that only a
        lucky measurement had ruled out; they are confirmed in the next round.
        """
        for _ in range(3):
            pending = [r for r in study.front() if not r.test]
            baseline = study.baseline
            if baseline is None or not pending:
                return
            members = [baseline, *(r for r in pending if r.trial != baseline.trial)]
            self.console.confirming(len(members))
            answers = self.executor.confirm(members, functools.partial(self.console.stage, None))
            revised = [confirm.revised(r, answers[str(r.trial)]) for r in members]
            study.revise(revised)

    def summary(
        self,
        records: Sequence[Record],
        front: Sequence[Record],
        baseline: Record | None,
        *,
        confirmed: bool = False,
    ) -> Summary | None:
        """Return what can be told of the study; None before a baseline has been measured."""
        if baseline is None:
            return None
        return summary_of(
            self.experiment,
            self.folder,
            self.command,
            records,
            front,
            baseline,
            confirmed=confirmed,
        )

    def _refuser(self) -> Any:
        """Return what says why a point cannot be executed; it loads the user's model once."""
        try:
            kinds = kinds_of(self.experiment.task.model())
        except SearchError:
            raise
        except Exception as error:
            raise BadTask(f"model() failed: {type(error).__name__}: {error}") from error
        known: dict[Any, str | None] = {}

        def refuse(point: Point) -> str | None:
            plan = self.experiment.space.plan(point)
            key = (plan.runtime, plan.encoding, plan.placement, plan.recovery.dtype)
            if key not in known:
                own = refusal(self.experiment, plan, kinds)
                known[key] = own or self.executor.refuses(plan)
            return known[key]

        return refuse

    def _interrupted(self, study: Study, number: int) -> Interrupted:
        summary = self.summary(study.records, study.front(), study.baseline)
        if summary:
            self.tracker().finish(summary, self.folder, "KILLED")
        return Interrupted(
            f"stopped, all measurements are kept; continue: python -m search resume {self.folder}",
            number,
        )


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM into an exception, as SIGINT is one: Python ends without `finally` otherwise."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    environment = folder.environment(experiment, command)
    told = {**environment.pop("versions"), **environment}
    limits = {k: v for goal in experiment.goals for k, v in limits_in_words(goal).items()}
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


def limits_in_words(goal: Goal) -> dict[str, str]:
    """Return each limit of a goal as words."""
    unit, worse = goal.objective.unit, "below" if goal.rising else "above"
    words = {}
    if goal.within is not None:
        words["within"] = f"at most {goal.within:g} {unit} {worse} the unchanged model"
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
        if goal.within is not None:
            start = baseline.measurements[goal.name].value
            found[goal.name] = start - goal.within if goal.rising else start + goal.within
        for bound in (goal.at_least, goal.at_most):
            if bound is not None:
                found[goal.name] = bound
    return found


def _why_nothing(records: Sequence[Record]) -> str:
    failed = next((r for r in records if r.reason), None)
    why = f"the first reason is: {failed.reason}" if failed else "no trial was run"
    return f"the search ended and no trial succeeded; {why}"
