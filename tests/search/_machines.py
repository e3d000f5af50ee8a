"""A machine that is only imagined: it times artifacts as it is told, slower from group to group."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from _answers import answer, measured

from objectives import Measurement
from search.evaluation import confirm
from search.executors import Executor
from search.experiment.experiment import Experiment
from search.measuring.server import Crashed
from search.records.record import Record
from search.study.queue import Queue
from spaces import Plan


class Machine:
    """Stands in for a lane: artifacts are folders named after their trials."""

    def __init__(self, times: Mapping[int, float], drift: float = 1.5) -> None:
        self.times, self._drift, self._slow = times, drift, 1.0
        self.crashing: set[int] = set()
        """Artifacts that bring down the process they are in."""
        self.unscored: set[int] = set()
        """Artifacts without a finite score on the test split."""
        self.room = 99
        """Artifacts that fit in memory together."""
        self.groups: list[list[int]] = []
        """What was timed in turns."""

    def interleave(
        self,
        experiment: Experiment,
        artifacts: Mapping[Path, Any],
        *,
        values: Mapping[str, float],
        data: Path,
    ) -> tuple[dict[str, dict[str, Measurement]], int]:
        del experiment, data
        trials = [int(a.name) for a in artifacts]
        if len(trials) > self.room or self.crashing & set(trials):
            raise Crashed("the runtime crashed while measuring: its process was killed by signal 9")
        self.groups.append(trials)
        ratios = [self.times[trial] / self.times[trials[0]] for trial in trials]
        self._slow *= self._drift
        return {
            str(a): {"latency": measured(ratio * values["latency"], "ms")}
            for a, ratio in zip(artifacts, ratios, strict=True)
        }, 1

    def measure(
        self, experiment: Experiment, artifact: Path, names: Sequence[str], **more: Any
    ) -> Any:
        del experiment, more
        trial = int(artifact.name)
        if "latency" in names:
            if trial in self.crashing:
                raise Crashed("the runtime crashed while measuring")
            time = measured(self.times[trial] * self._slow, "ms")
            return SimpleNamespace(measurements={"latency": time}, processes=1)
        if trial in self.unscored:
            raise Crashed("ValueError: a measurement must be finite, got nan score")
        return SimpleNamespace(measurements={"accuracy": measured(0.5, "score")})


def artifact(run: Path, trial: int) -> str:
    """Make the artifact of a trial, and return it as a record names it."""
    place = f"artifacts/{trial}"
    (run / place).mkdir(parents=True, exist_ok=True)
    (run / place / "manifest.json").write_text("{}")
    return place


def manifest(run: Path, record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / str(record.artifact) / "manifest.json").read_text())
    return found


class Imagined(Executor):
    """Runs trials by making their records up, and confirms them on an imagined machine."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        machine: Machine,
        fails: Callable[[Record], bool] = lambda record: False,
    ) -> None:
        super().__init__(experiment=experiment, folder=folder, cores=1)
        made = {"machine": machine, "fails": fails, "tally": Counter(), "confirmed": []}
        for name, value in made.items():
            object.__setattr__(self, name, value)

    machine: Machine
    fails: Callable[[Record], bool]
    tally: Counter[str]
    confirmed: list[list[int]]
    """What was confirmed together, by trial, the baseline first."""

    @property
    def asked(self) -> int:
        return self.tally["asked"]

    def prepare(self) -> None:
        pass

    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        del plan, kinds

    def run(self, queue: Queue) -> None:
        while asked := queue.ask():
            self.tally["asked"] += 1
            record = answer(asked)
            goals = {g.name for g in self.experiment.objectives}
            values = {k: m for k, m in record.measurements.items() if k in goals}
            made = {"measurements": values, "artifact": artifact(self.folder, asked.trial)}
            if self.fails(record):
                made = {"measurements": {}, "state": "failed", "reason": "the disk went away"}
            queue.tell(asked, dataclasses.replace(record, **made))

    def confirm(
        self, records: Sequence[Record], reference: Record, listener: Any
    ) -> dict[str, Any]:
        del listener
        self.confirmed.append([r.trial for r in records])
        job = {
            "records": [r.to_json() for r in records],
            "reference": reference.to_json(),
            "run": str(self.folder),
        }
        return confirm.measure(self.experiment, job, self.machine)  # type: ignore[arg-type]
