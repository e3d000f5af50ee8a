"""Run one trial at a time on this machine, each in a fresh process that can be killed."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from search.errors import BadEnvironment
from search.executors import Executor, Listener
from search.experiment import refusal_here
from search.records import Record, Rung
from search.study import PendingTrial, Queue
from search.trial_process import Failed, child, context_for, job
from spaces import Plan

Judge = Callable[[Rung], str | None]
"""Returns the reason to stop the running trial, or None to let it go on."""
CONFIRM_MINUTES = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Executor):
    """Runs one trial at a time in a fresh process, killed with its children at its time limit."""

    quiet = True

    def prepare(self) -> None:
        """Start importing the libraries of trials in the background."""
        context_for(self.experiment.target.threads)

    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        """Return the reason why this machine can never execute a plan, or None if it can."""
        return refusal_here(self.experiment, plan, kinds)

    def run(self, queue: Queue) -> None:
        """Evaluate one point after another until the queue has none."""
        while pending := queue.ask():
            judge = functools.partial(queue.judge, pending)
            listener = functools.partial(queue.progress, pending)
            queue.tell(pending, self.evaluate(pending, judge, listener))

    def evaluate(self, pending: PendingTrial, judge: Judge, listener: Listener) -> Record:
        """Return the record of a trial; a crash, a timeout or a lack of memory makes it failed."""
        runtime = self.experiment.space.plan(pending.point).runtime
        content = trial_content(pending, runtime)
        start = time.monotonic()
        log = self.folder / "logs" / f"{pending.trial}.log"
        try:
            limit = self.experiment.trial_time
            return Record.from_json(self._do("trial", content, log, limit, judge, listener))
        except Failed as error:
            seconds = time.monotonic() - start
            return failed(pending, runtime, f"{error}; see {log}", seconds)

    def confirm(
        self, records: Sequence[Record], reference: Record, listener: Listener
    ) -> dict[str, Any]:
        """Return new measurements of records, by trial number: see `evaluation.confirm.measure`.

        Raises BadEnvironment if the process fails.
        """
        content = {
            "runtimes": sorted({r.runtime for r in [*records, reference]}),
            "records": [r.to_json() for r in records],
            "reference": reference.to_json(),
        }
        log = self.folder / "logs" / "confirm.log"
        try:
            result = self._do("confirm", content, log, 60 * CONFIRM_MINUTES, None, listener)
        except Failed as error:
            raise BadEnvironment(f"the front could not be confirmed: {error}; see {log}") from error
        return dict(result)

    def explain(
        self, members: Sequence[Record], records: Sequence[Record], listener: Listener
    ) -> dict[str, Any]:
        """Return the steps from the baseline to each member, measured in one process."""
        content = {
            "runtimes": sorted({r.runtime for r in [*members, records[0]]}),
            "members": [r.to_json() for r in members],
            "records": [r.to_json() for r in records],
        }
        log = self.folder / "logs" / "steps.log"
        try:
            result = self._do("steps", content, log, 60 * CONFIRM_MINUTES, None, listener)
        except Failed as error:
            raise BadEnvironment(f"the steps could not be measured: {error}; see {log}") from error
        return dict(result)

    def _do(
        self,
        kind: str,
        content: dict[str, Any],
        log: Path,
        limit: float,
        judge: Judge | None,
        listener: Listener,
    ) -> Any:
        """Run a job in a new process and return its result; raises Failed with the reason."""
        content = job(kind, self.experiment, self.folder, self.cores, **content)
        with child(content, log, limit, self.experiment.target.threads) as process:
            while "result" not in (message := process.receive()):
                if "rung" in message:
                    rung = Rung.from_json(message["rung"])
                    process.answer(stop=judge(rung) if judge else None)
                else:
                    listener(*(message[key] for key in ("stage", "done", "of", "detail")))
            return message["result"]


def trial_content(pending: PendingTrial, runtime: str) -> dict[str, Any]:
    """Return the fields of a trial's job as plain data."""
    reference, baseline = pending.reference, pending.baseline
    return {
        "trial": pending.trial,
        "point": pending.point,
        "runtimes": sorted({runtime} | ({reference.runtime} if reference else set())),
        "reference": reference.to_json() if reference else None,
        "baseline_values": {k: m.value for k, m in baseline.measurements.items()}
        if baseline
        else {},
    }


def failed(pending: PendingTrial, runtime: str, reason: str, seconds: float) -> Record:
    """Return the record of a trial that failed without one."""
    return Record(
        trial=pending.trial,
        point=pending.point,
        runtime=runtime,
        state="failed",
        reason=reason,
        seconds=round(seconds, 3),
    )
