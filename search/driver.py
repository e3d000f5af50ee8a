"""The search loop: evaluate points until the budget is spent, then confirm and report the front."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from objectives import cached
from search import run_folder
from search.checks import inspect_model, rehearse, require_executable
from search.errors import (
    BadEnvironment,
    BadRun,
    BadTask,
    Interrupted,
    NothingSucceeded,
    SearchError,
)
from search.evaluation import confirm, smallest_differences
from search.executors import Executor
from search.experiment import Experiment, kinds_of
from search.origin import Origin, continued
from search.records import Record
from search.reporting import Console, Summary, figures, summary_of
from search.signals import Signals
from search.study import Front, Queue, Refuse, Start, Study
from search.tracking import Tracker
from spaces import Point


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """One search in one run folder, new or continued."""

    experiment: Experiment
    folder: Path
    executor: Executor
    tracker: Callable[[], Tracker]
    """Creates the tracker; called when there is something to write, as importing MLflow is slow."""
    console: Console
    command: str
    """Command of the user, shown for repetition."""
    force: bool = False
    """True if a run is continued although its code, data, settings or versions changed."""
    source: Front | None = None
    """The front of another run from which the search starts; None starts from usual points."""

    def run(self) -> Summary:
        """Search until the budget is spent, confirm the front, and return the summary.

        A front that cannot be confirmed is reported with its measurements from the search and
        marked as unconfirmed. Raises BadTask if a split, the loss or the score fails or the
        unchanged model cannot be measured, BadExperiment if no point can be executed,
        NothingSucceeded if no trial succeeded, Interrupted on a signal.
        """
        self.executor.prepare()
        experiment, model = inspect_model(self.experiment)
        rehearse(experiment, model)
        refuse = self._refuser(model)
        require_executable(experiment, refuse)
        study = self._study(experiment, model, refuse)
        run_folder.store_records(self.folder, study.records)
        self.console.begin(study.experiment, study, self.folder)
        self._tell_smallest_differences(experiment, model)
        with Signals() as signals:
            try:
                self._loop(study, signals)
                return self._finish(study, signals)
            except KeyboardInterrupt:  # Stopped, or Ray's replacement for it
                raise self._interrupted(study, signals.number) from None
            except SearchError:
                self._close_run(study, "FAILED")
                raise

    def _tell_smallest_differences(self, experiment: Experiment, model: nn.Module) -> None:
        """Print how small a difference of a score the validation split can show."""
        if not any(g.objective.trained for g in experiment.objectives):
            return
        data = self.folder / "cache" / "data"
        examples = cached(experiment.task, "validation", data)
        try:
            smallest = smallest_differences(experiment, model, examples)
        except ValueError:  # too few of its samples have a score, as of a rare class
            return
        for name, value in smallest.items():
            self.console.say(
                f"the {len(examples)} validation samples can show differences of {name} from about "
                f"{figures(value)} on; smaller ones may be noise"
            )

    def _study(self, experiment: Experiment, model: nn.Module, refuse: Refuse) -> Study:
        """Begin or continue the study of the run folder; raises BadRun if it may not continue."""
        origin = Origin.of(self.experiment, model)
        allowed = continued(self.folder, self.experiment, origin, force=self.force)
        for line in allowed.told:
            self.console.say(line)
        start = self._started(experiment)
        run_folder.begin(
            self.folder,
            self.experiment,
            self.command,
            origin.to_json(),
            start.to_json() if start else None,
        )
        given = start.points if start else ()
        study = Study.open(self.folder, experiment, refuse, noted=allowed.noted, given=given)
        study.close_stale()
        if allowed.new:
            first = max((record.trial for record in study.records), default=-1) + 1
            made_from = origin.to_json()
            run_folder.note_changes(self.folder, self.experiment, made_from, allowed.new, first)
        return study

    def _started(self, experiment: Experiment) -> Start | None:
        """Return the points of another run with which this one starts or has started.

        Raises BadRun if the run has begun without them, or with those of another run.
        """
        known = run_folder.read_environment(self.folder)
        if known is None:
            start = Start.of(experiment, *self.source) if self.source else None
        else:
            start = Start.from_json(known["start"]) if "start" in known else None
            if self.source and (start is None or start.run != self.source[0]):
                began = f"from {start.run}" if start else "without --from"
                raise BadRun(
                    f"the search in {self.folder} has begun {began}: leave --from out to continue "
                    "it, or choose another folder with --out"
                )
        if start:
            self.console.say(start.told)
        return start

    def _loop(self, study: Study, signals: Signals) -> None:
        def record_stored(record: Record) -> None:
            run_folder.append_record(self.folder, record)
            summary = self.summary(study)
            self.console.trial(record, study, summary)
            if summary:
                self.tracker().sync(summary)
            self._stop_without_baseline(study)

        queue = Queue(
            study,
            seconds=self.experiment.time,
            on_record=record_stored,
            on_start=self.console.started,
            progress=signals.checked(self.console.stage),
            check=signals.check,
        )
        self._stop_without_baseline(study)
        try:
            self.executor.run(queue)
        finally:
            queue.close()
        if remark := study.remark():
            self.console.say(f"note: {remark}")
        if queue.exhausted:
            self.console.say("Every point near the front is known; the search ends early.")

    def _stop_without_baseline(self, study: Study) -> None:
        """Raise BadTask if no runtime can measure the unchanged model, on which all results depend.

        With several workers, other trials may succeed before that is known.
        """
        if reason := study.baseline_failure():
            raise BadTask(
                f"the unchanged model cannot be measured: {reason}. When that is mended it is "
                f"tried again by python -m search resume {self.folder}"
            )

    def _finish(self, study: Study, signals: Signals) -> Summary:
        """Confirm the front, write the report, and mirror both in the tracker."""
        from search.reporting import html  # late: takes a second to import

        if study.baseline is None:
            raise NothingSucceeded(_first_reason(study.records))
        confirmed = self._confirmed(study, signals)
        self._explain(study, signals)
        summary = self.summary(study, confirmed=confirmed)
        assert summary is not None  # an unconfirmed baseline keeps its measurements
        run_folder.store_records(self.folder, study.records)
        if confirmed:  # else a later confirmation may bring other trials back
            run_folder.discard_artifacts(self.folder, [*summary.front, *study.baselines()])
        html.write(self.folder, summary)
        tracker = self.tracker()
        mirrored = tracker.finish(summary, self.folder)
        run_folder.store_tracking(self.folder, tracker.address, tracker.location())
        self.console.finish(summary, self.folder, tracker.address if mirrored else None)
        return summary

    def _confirmed(self, study: Study, signals: Signals) -> bool:
        """Measure the front again; return False, with a message on the console, if it cannot be."""
        try:
            self._confirm(study, signals)
        except BadEnvironment as error:
            self.console.say(
                f"error: {error}; the front is reported as the search measured it, NOT confirmed. "
                f"Confirm it: python -m search resume {self.folder}"
            )
            return False
        return True

    def _confirm(self, study: Study, signals: Signals) -> None:
        """Measure members of the front again until all of them are confirmed.

        New values may show that members are dominated, and bring back trials that only a lucky
        measurement had ruled out. Those are confirmed in the next round. The loop ends because each
        trial is confirmed once.
        """
        listener = functools.partial(signals.checked(self.console.stage), None)
        while (baseline := study.baseline) and (reference := study.reference):
            signals.check()
            pending = confirm.pending(study.front(), baseline)
            if not pending:
                return
            members = [baseline, *(r for r in pending if r.trial != baseline.trial)]
            self.console.confirming(len(members))
            answers = self.executor.confirm(members, reference, listener)
            unconfirmed = confirm.pending(members, baseline)
            study.revise([confirm.revised(r, answers[str(r.trial)]) for r in unconfirmed])

    def _explain(self, study: Study, signals: Signals) -> None:
        """Measure the steps from the baseline to each pick that has none yet.

        Must run before artifacts are discarded, as many points on the way have one.
        """
        summary = self.summary(study)
        picks = {r.trial: r for r in summary.picked.values()} if summary else {}
        members = [r for r in picks.values() if r.facts.steps is None]
        records = [r for r in study.records if self._has_artifact(r)]
        records.sort(key=lambda r: study.baseline is None or r.trial != study.baseline.trial)
        members = [r for r in members if r.trial != records[0].trial]
        if not members:
            return
        signals.check()
        listener = functools.partial(signals.checked(self.console.stage), None)
        try:
            answers = self.executor.explain(members, records, listener)
        except BadEnvironment as error:
            self.console.say(f"note: what each change bought is not told: {error}")
            return
        # Steps that there was no time for stay untold: the same command again only reports.
        study.revise([_with_steps(r, answers.get(str(r.trial), ())) for r in members])

    def _has_artifact(self, record: Record) -> bool:
        return bool(record.artifact) and (self.folder / str(record.artifact)).is_dir()

    def summary(self, study: Study, *, confirmed: bool = False) -> Summary | None:
        """Return a summary of the study; None before a baseline is measured."""
        if (baseline := study.baseline) is None:
            return None
        return summary_of(
            study.experiment,
            self.folder,
            self.command,
            study.records,
            study.front(),
            baseline,
            confirmed=confirmed,
        )

    def _refuser(self, model: nn.Module) -> Refuse:
        """Return a function that returns the reason why a point cannot be executed, or None."""
        kinds = kinds_of(model)
        known: dict[Any, str | None] = {}

        def refuse(point: Point) -> str | None:
            plan = self.experiment.space.plan(point)
            key = (plan.runtime, plan.encoding, plan.placement, plan.recovery.dtype)
            if key not in known:
                known[key] = self.executor.refusal(plan, kinds)
            return known[key]

        return refuse

    def _interrupted(self, study: Study, number: int) -> Interrupted:
        self._close_run(study, "KILLED")
        return Interrupted(
            f"stopped, all measurements are kept; continue: python -m search resume {self.folder}",
            number,
        )

    def _close_run(self, study: Study, status: str) -> None:
        """Close the study's run in the tracker."""
        if summary := self.summary(study):
            self.tracker().finish(summary, self.folder, status)


def _first_reason(records: Sequence[Record]) -> str:
    failed = next((r for r in records if r.reason), None)
    reason = f"the first reason is: {failed.reason}" if failed else "no trial was run"
    return f"the search ended and no trial succeeded; {reason}"


def _with_steps(record: Record, steps: Sequence[Any]) -> Record:
    return dataclasses.replace(record, facts=dataclasses.replace(record.facts, steps=tuple(steps)))
