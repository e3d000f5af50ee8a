"""MLflow: a projection of the study, written by the driver alone; can be repeated at any time."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# MLflow decides about telemetry while it is imported, hence before the import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from search.records import Record
from search.reporting import Summary
from search.tracking.addresses import (
    Run,
    default_store,
    experiment_id,
    known,
    quietly,
    redact,
    ui_command,
)
from search.tracking.runs import Projection, counts, quoted, study, trial

__all__ = ["MlflowTracker", "default_store", "ui_command"]

PAUSE = 60.0
"""Seconds during which an unreachable store is not asked again."""
REFUSALS = (MlflowException, SQLAlchemyError, OSError)
"""What a store that is absent, locked, full or broken raises (requests' errors are OSErrors)."""
BATCH = 900
"""Metrics in one call: servers take 1000."""


class MlflowTracker:
    """Keeps a store in step with a study; never stops the search, and warns once of an outage."""

    def __init__(self, store: str | None = None, warn: Callable[[str], None] | None = None) -> None:
        self.store = store or default_store()
        self._warn = warn or _say
        self._warned = False
        self._asleep_until = 0.0
        self._client: Any = None
        self._experiment = ""
        self._parent: Run | None = None
        self._trials: dict[str, Run] = {}
        self._told: dict[int, tuple[Any, ...]] = {}
        """What was last written of a trial: the next call has nothing to do if it is the same."""

    @property
    def address(self) -> str:
        """Return the store as it may be shown."""
        return redact(self.store)

    def location(self) -> tuple[str, str] | None:
        """Return the ids of the experiment and of the study's run, None before the first sync."""
        return (self._experiment, self._parent.id) if self._parent else None

    def sync(self, summary: Summary) -> bool:
        """Write whatever the store lacks of the study; return whether it is complete now."""
        if time.monotonic() < self._asleep_until:
            return False
        return self._guarded(lambda: self._project(summary))

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        """Write what is lacking, the front's artifacts and the report; close the study's run.

        `folder` is the run folder; `status` is FINISHED, FAILED or KILLED.
        """
        done = self._guarded(lambda: self._project(summary))
        return done and self._guarded(lambda: self._close(summary, folder, status))

    def _guarded(self, write: Callable[[], None]) -> bool:
        try:
            with quietly():
                write()
        except REFUSALS as error:
            self._outage(error)
            return False
        return True

    def _outage(self, error: BaseException) -> None:
        """Forget what is known, because a write may have arrived in part, and warn once."""
        self._client, self._parent, self._trials, self._told = None, None, {}, {}
        self._asleep_until = time.monotonic() + PAUSE
        if not self._warned:
            reason = redact(" ".join(str(error).split()))[:200]
            self._warn(
                f"MLflow at {self.address} does not answer; the search goes on and the results "
                f"are kept in the run folder ({type(error).__name__}: {reason})"
            )
            self._warned = True

    def _project(self, summary: Summary) -> None:
        if self._parent is None:
            self._open(summary)
        parent = self._parent
        assert parent is not None
        for record in summary.records:
            self._trial(record, summary, parent)
        self._write(parent, study(summary))

    def _open(self, summary: Summary) -> None:
        """Find or create the experiment and the study's run, and read what they hold."""
        self._client = self._client or MlflowClient(tracking_uri=self.store)
        self._experiment = experiment_id(self._client, self.store)
        found = [known(run) for run in self._search(summary.key)]
        parents = [run for run in found if run.tags.get("role") == "study"]
        self._trials = {run.tags["trial"]: run for run in found if "trial" in run.tags}
        if parents:
            self._parent = parents[0]
            self._status(parents[0], "RUNNING")
            return
        tags = {"study": quoted(summary.key), "role": "study"}
        self._parent = self._create(summary.name, tags, _now())

    def _search(self, key: str) -> Iterator[Any]:
        token = None
        words = f"tags.study = '{quoted(key)}'"
        while True:
            page = self._client.search_runs(
                [self._experiment], words, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, name: str, tags: Mapping[str, str], started: int) -> Run:
        run = self._client.create_run(
            self._experiment, start_time=started, tags=dict(tags), run_name=name
        )
        return known(run)

    def _trial(self, record: Record, summary: Summary, parent: Run) -> None:
        told = (record, summary.role(record), summary.baseline.measurements)
        if self._told.get(record.trial) == told:
            return
        want = trial(record, summary)
        known = self._trials.get(str(record.trial))
        length = round(1000 * want.seconds)
        if known is None:
            # Sorted by their start, trials written after an outage still come in order.
            latest = max(run.started for run in (parent, *self._trials.values()))
            started = max(_now() - length, latest + 1)
            tags = dict(want.tags) | {"mlflow.parentRunId": parent.id}
            known = self._create(want.name, tags, started)
            self._trials[str(record.trial)] = known
        self._write(known, want)
        self._status(known, want.status, known.started + length)
        self._told[record.trial] = told

    def _status(self, run: Run, status: str, end: int | None = None) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status, end)
        run.status = status

    def _write(self, run: Run, want: Projection) -> None:
        """Write what differs from what the store is known to hold, in as few calls as can be."""
        now = _now()
        params = {k: v for k, v in want.params.items() if k not in run.params}
        tags = {k: v for k, v in want.tags.items() if run.tags.get(k) != v}
        changed = {k: v for k, v in want.metrics.items() if run.metrics.get(k) != v}
        metrics = [Metric(k, v, now, 0) for k, v in changed.items()]
        metrics += [m for k, c in want.curves.items() for m in self._missing(run, k, c, now)]
        for start in range(0, max(len(metrics), len(params) + len(tags) and 1), BATCH):
            self._client.log_batch(
                run.id,
                metrics=metrics[start : start + BATCH],
                params=[Param(k, v) for k, v in params.items()] if start == 0 else [],
                tags=[RunTag(k, v) for k, v in tags.items()] if start == 0 else [],
            )
        run.params |= params
        run.tags |= tags
        run.metrics |= {m.key: m.value for m in metrics}

    def _missing(self, run: Run, key: str, curve: list[float], now: int) -> list[Metric]:
        """Return the entries of a curve that come after what the store holds of it."""
        if key in run.metrics and key not in run.steps:
            run.steps[key] = 1 + max(m.step for m in self._client.get_metric_history(run.id, key))
        start = run.steps.get(key, 0)
        run.steps[key] = max(start, len(curve))
        return [Metric(key, curve[i], now, i) for i in range(start, len(curve))]

    def _close(self, summary: Summary, folder: Path, status: str) -> None:
        parent = self._parent
        assert parent is not None
        for name in ("report.html", "pareto.png", "front.csv", "front.json"):
            if (folder / name).is_file():
                self._send(self._client.log_artifact, parent.id, str(folder / name))
        self._picks(summary)
        last = counts(summary) | {"front_size": float(len(summary.front))}  # confirmed by now
        told = {k: v for k, v in last.items() if parent.metrics.get(k) != v}
        metrics = [Metric(k, v, _now(), len(summary.records) - 1) for k, v in told.items()]
        self._client.log_batch(parent.id, metrics=metrics)
        for record in summary.front:
            if record.artifact and (folder / record.artifact).is_dir():
                self._upload(self._trials[str(record.trial)].id, folder / record.artifact)
        self._status(parent, status)

    def _picks(self, summary: Summary) -> None:
        """Tag the picked trials with their words; only at the end, since they change often."""
        words: dict[str, list[str]] = {}
        for word, record in summary.picked.items():
            words.setdefault(str(record.trial), []).append(word)
        for number, run in self._trials.items():
            want = " ".join(words.get(number, []))
            if run.tags.get("picks", "") != want:
                self._client.set_tag(run.id, "picks", want)
                run.tags["picks"] = want

    def _upload(self, run_id: str, artifact: Path) -> None:
        """Copy an artifact's files unless they are there already, told by name and size."""
        there = {
            Path(f.path).name: f.file_size for f in self._client.list_artifacts(run_id, "artifact")
        }
        here = {f.name: f.stat().st_size for f in artifact.iterdir() if f.is_file()}
        if there != here:
            self._send(self._client.log_artifacts, run_id, str(artifact), "artifact")

    def _send(self, send: Callable[..., None], *arguments: str) -> None:
        """Call `send`; artifact stores raise their own libraries' errors, here an OSError."""
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(send, *arguments).exception()
        if error is not None:
            raise OSError(f"{type(error).__name__}: {error}") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _now() -> int:
    return round(1000 * time.time())
