"""Measures what a trial costs besides its own work: processes, imports, the study, MLflow.

    python experiments/overhead.py [--trials 6] [--out experiments/results/overhead.json]

The unchanged model of the digits experiment is evaluated again and again by the real executor.
What its wall time holds beyond the seconds that the trial counts itself is starting and ending
its process. Study and tracker are timed as a search calls them, after every trial and, since
both grow with the trials, again after many; those further trials are copies of a measured record.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from objectives.host import cores, processor
from search.executors.local import Local
from search.experiment import (
    Experiment,
    kinds_of,
    refusal,
)
from search.records import Record
from search.reporting import summary_of
from search.study import PendingTrial, Study
from search.tracking import mlflow_store

COMMAND = "python experiments/overhead.py"
FIRST = "MLflow: the store and the first trial"
STARTS = {
    "process: python itself": "pass",
    "process: and import torch": "import torch",
    "process: and the worker's imports": (
        "import search.trial_process.main, torch, search.experiment, search.evaluation"
    ),
    "process: and onnxruntime, openvino": (
        "import search.trial_process.main, torch, search.experiment, search.evaluation, "
        "objectives.runtimes.onnxruntime, objectives.runtimes.openvino"
    ),
}
"""What a fresh process is asked to do, each including what comes before it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A run in a scratch folder, with all that a search has."""

    experiment: Experiment
    folder: Path
    study: Study
    tracker: mlflow_store.MlflowTracker
    seconds: dict[str, list[float]]
    """Everything measured, by what it is."""

    def timed(self, what: str, action: Callable[[], Any]) -> Any:
        """Return what `action` returns; its seconds are kept."""
        start = time.perf_counter()
        result = action()
        self.note(what, time.perf_counter() - start)
        return result

    def note(self, what: str, seconds: float) -> None:
        """Keep one more measurement."""
        self.seconds.setdefault(what, []).append(seconds)


def main() -> int:
    """Measure, print a table in Markdown, and write the raw seconds as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=6, help="evaluated for real")
    parser.add_argument("--further", type=int, default=60, help="told to study and MLflow")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/results/overhead.json")
    asked = parser.parse_args()
    # Children import the main script first, but not that of `python -m search`; with this one's
    # imports, MLflow among them, a trial would seem to cost two seconds more than it does.
    del sys.modules["__main__"].__file__
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        bench = _bench(Path(scratch) / "run")
        _processes(bench)
        record = _trials(bench, asked.trials)
        _bookkeeping(bench, record, asked.further)
    print(_table(bench.seconds))
    _store(asked.out, bench.seconds)
    return 0


def _bench(run: Path) -> Bench:
    experiment = Experiment.load(ROOT / "search" / "experiment" / "digits.toml")
    experiment = dataclasses.replace(experiment, trials=10_000)
    run.mkdir()
    kinds = kinds_of(experiment.task.model())
    study = Study.open(
        run, experiment, lambda point: refusal(experiment, experiment.space.plan(point), kinds)
    )
    tracker = mlflow_store.MlflowTracker(f"sqlite:///{run.parent / 'mlflow.db'}")
    return Bench(experiment=experiment, folder=run, study=study, tracker=tracker, seconds={})


def _processes(bench: Bench, repeats: int = 3) -> None:
    """Time fresh processes, in turns."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(repeats):
        for what, code in STARTS.items():
            start = time.perf_counter()
            command = [sys.executable, "-c", code]
            subprocess.run(command, check=True, env=environment, capture_output=True)
            bench.note(what, time.perf_counter() - start)


def _trials(bench: Bench, count: int) -> Record:
    """Evaluate the neutral point `count` times with the real executor; return the last record."""
    executor = Local(experiment=bench.experiment, folder=bench.folder, cores=1)
    record = None
    for number in range(count):
        print(f"\rtrial {number + 1} of {count}", end="", file=sys.stderr, flush=True)
        asked = bench.timed("study: ask", bench.study.ask)
        trivial = dataclasses.replace(asked, point=bench.experiment.space.neutral())
        start = time.perf_counter()
        record = executor.evaluate(trivial, lambda rung: None, lambda *stage: None)
        wall = time.perf_counter() - start
        if record.state != "complete":
            raise SystemExit(f"the unchanged model could not be measured: {record.reason}")
        bench.note("trial: wall time", wall)
        for stage, seconds in (record.facts.seconds or {}).items():
            bench.note(f"trial: of which {stage}", seconds)
        bench.note("trial: outside of its stages", wall - record.seconds)
        _tell(bench, asked, record, "study: tell", "MLflow: a trial")
    print(file=sys.stderr)
    if record is None:
        raise SystemExit("--trials must be at least 1")
    return record


def _bookkeeping(bench: Bench, record: Record, count: int) -> None:
    """Tell `count` more trials that all cost nothing but their bookkeeping."""
    for number in range(count):
        suffix = f"; after {count} trials" if number >= count - 10 else "; between"
        asked = bench.timed(f"study: ask{suffix}", bench.study.ask)
        if asked is None:
            return
        _tell(bench, asked, record, f"study: tell{suffix}", f"MLflow: a trial{suffix}")


def _tell(bench: Bench, asked: PendingTrial, record: Record, tell: str, sync: str) -> None:
    study = bench.study
    mine = dataclasses.replace(record, trial=asked.trial, point=dict(asked.point))
    bench.timed(tell, lambda: study.tell(asked, mine))
    baseline = study.baseline
    assert baseline is not None
    summary = summary_of(
        bench.experiment,
        bench.folder,
        COMMAND,
        study.records,
        study.front(),
        baseline,
        confirmed=False,
    )
    what = sync if FIRST in bench.seconds else FIRST
    if not bench.timed(what, lambda: bench.tracker.sync(summary)):
        raise SystemExit("MLflow could not be written")


def _table(seconds: dict[str, list[float]]) -> str:
    """Return the medians as Markdown, what lies between the first and last trials left out."""
    lines = ["| | seconds, median | lowest | highest | of |", "|---|---:|---:|---:|---:|"]
    for what, values in seconds.items():
        if not what.endswith("between"):
            lines.append(f"| {what} | {_figures(values)} | {len(values)} |")
    return "\n".join(lines)


def _figures(values: Sequence[float]) -> str:
    return " | ".join(f"{v:.3f}" for v in (statistics.median(values), min(values), max(values)))


def _store(file: Path, seconds: dict[str, list[float]]) -> None:
    content = {
        "machine": {"cpu": processor(), "cores": cores()},
        "python": platform.python_version(),
        "seconds": {what: [round(v, 4) for v in values] for what, values in seconds.items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
