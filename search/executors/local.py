"""One trial at a time on this machine, each in a fresh process that can be killed."""

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
"""Returns why the trial under way is to stop, None if it goes on."""
CONFIRM_MINUTES = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Executor):
    """Runs one trial at a time in a fresh process, killed with its children at its time limit."""

    quiet = True

    def prepare(self) -> None:
        """Start importing the libraries now, beside whatever comes before the first trial."""
        context_for(self.experiment.target.threads)

    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        """Return why this machine can never execute a plan, None if it can."""
        return refusal_here(self.experiment, plan, kinds)

    def run(self, queue: Queue) -> None:
        """Evaluate one point after another until there is none."""
        while asked := queue.ask():
            judge = functools.partial(queue.judge, asked)
            listener = functools.partial(queue.progress, asked)
            queue.tell(asked, self.evaluate(asked, judge, listener))

    def evaluate(self, asked: PendingTrial, judge: Judge, listener: Listener) -> Record:
        """Return the record of a trial; a crash, a hang or a lack of memory is a failed one."""
        runtime = self.experiment.space.plan(asked.point).runtime
        content = {"trial": asked.trial, "point": asked.point, "runtimes": [runtime]}
        start = time.monotonic()
        log = self.folder / "logs" / f"{asked.trial}.log"
        try:
            limit = self.experiment.trial_time
            return Record.from_json(self._do("trial", content, log, limit, judge, listener))
        except Failed as error:
            seconds = time.monotonic() - start
            return failed(asked, runtime, f"{error}; see {log}", seconds)

    def confirm(self, records: Sequence[Record], listener: Listener) -> dict[str, Any]:
        """Return new measurements of records by trial (search.confirm.measure).

        Raises BadEnvironment when the process fails.
        """
        content = {
            "runtimes": sorted({r.runtime for r in records}),
            "records": [r.to_json() for r in records],
        }
        log = self.folder / "logs" / "confirm.log"
        try:
            found = self._do("confirm", content, log, 60 * CONFIRM_MINUTES, None, listener)
        except Failed as error:
            raise BadEnvironment(f"the front could not be confirmed: {error}; see {log}") from error
        return dict(found)

    def _do(
        self,
        kind: str,
        content: dict[str, Any],
        log: Path,
        limit: float,
        judge: Judge | None,
        listener: Listener,
    ) -> Any:
        """Return the result of a job done in a new process; raises Failed with the reason."""
        content = job(kind, self.experiment, self.folder, self.cores, **content)
        with child(content, log, limit, self.experiment.target.threads) as process:
            while "result" not in (message := process.receive()):
                if "rung" in message:
                    rung = Rung.from_json(message["rung"])
                    process.answer(stop=judge(rung) if judge else None)
                else:
                    listener(*(message[key] for key in ("stage", "done", "of", "detail")))
            return message["result"]


def failed(asked: PendingTrial, runtime: str, reason: str, seconds: float) -> Record:
    """Return the record of a trial that gave none."""
    return Record(
        trial=asked.trial,
        point=asked.point,
        runtime=runtime,
        state="failed",
        reason=reason,
        seconds=round(seconds, 3),
    )
