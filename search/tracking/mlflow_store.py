"""Tracker for MLflow, which mirrors the study; written by the driver, repeatable at any time."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# MLflow reads this while it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from search.records import Record
from search.reporting import Summary
from search.tracking import datasets
from search.tracking.addresses import (
    StoredRun,
    default_store,
    experiment_id,
    quietly,
    redact,
    stored_run,
    ui_command,
    view_key,
)
from search.tracking.runs import DesiredRun, counts, quoted, study, trial
from search.tracking.views import TAG, saved_view

__all__ = ["MlflowTracker", "default_store", "ui_command"]

PAUSE = 60.0
"""Seconds for which an unreachable store is not tried again."""
REFUSALS = (MlflowException, SQLAlchemyError, OSError)
"""Errors of a store that is absent, locked, full or broken; those of requests are OSErrors."""
BATCH = 900
"""Metrics in one call: servers accept 1000."""


class MlflowTracker:
    """Keeps a store in step with a study; never stops the search, and warns once of an outage."""

    def __init__(self, store: str | None = None, warn: Callable[[str], None] | None = None) -> None:
        self.store = store or default_store()
        self._warn = warn or _print_to_stderr
        self._warned = False
        self._retry_at = 0.0
        self._client: Any = None
        self._experiment = ""
        self._parent: StoredRun | None = None
        self._trials: dict[str, StoredRun] = {}
        self._saved_view = ""
        self._written: dict[int, tuple[Any, ...]] = {}
        """State of each trial when it was last written; trials with the same state are skipped."""

    @property
    def address(self) -> str:
        """Address of the store, without credentials."""
        return redact(self.store)

    def location(self) -> tuple[str, str] | None:
        """Return the ids of the experiment and of the study's run; None before the first sync."""
        return (self._experiment, self._parent.id) if self._parent else None

    def sync(self, summary: Summary) -> bool:
        """Write whatever the store lacks of the study; return True if it is complete."""
        if time.monotonic() < self._retry_at:
            return False
        return self._guarded(lambda: self._project(summary))

    def finish(self, summary: Summary, folder: Path, status: str = "FINISHED") -> bool:
        """Write whatever the store lacks, with the front's artifacts and the report; close the run.

        `folder` is the run folder; `status` is FINISHED, FAILED or KILLED. Returns True if all was
        written.
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
        """Forget the store's content, since a write may have arrived in part, and warn once."""
        self._client, self._parent, self._trials, self._written = None, None, {}, {}
        self._saved_view = ""
        self._retry_at = time.monotonic() + PAUSE
        if not self._warned:
            reason = redact(" ".join(str(error).split()))[:200]
            self._warn(
                f"MLflow at {self.address} does not answer; the search goes on and the results "
                f"are kept in the run folder ({type(error).__name__}: {reason})"
            )
            self._warned = True

    def _project(self, summary: Summary) -> None:
        if self._parent is None:
            self._open_run(summary)
        parent = self._parent
        assert parent is not None
        for record in summary.records:
            self._trial(record, summary, parent)
        self._write(parent, study(summary))
        self._view(parent, saved_view(summary))

    def _view(self, parent: StoredRun, view: str) -> None:
        """Write the study's saved view, if it is not there as it should be."""
        if view != self._saved_view:
            self._client.set_experiment_tag(self._experiment, TAG + view_key(parent.id), view)
            self._saved_view = view

    def _open_run(self, summary: Summary) -> None:
        """Find or create the experiment and the study's run, and read their content."""
        self._client = self._client or MlflowClient(tracking_uri=self.store)
        self._experiment = experiment_id(self._client, self.store)
        stored_runs = [stored_run(run) for run in self._search(summary.key)]
        parents = [run for run in stored_runs if run.tags.get("role") == "study"]
        self._trials = {run.tags["trial"]: run for run in stored_runs if "trial" in run.tags}
        if parents:
            self._parent = parents[0]
            self._status(parents[0], "RUNNING")
            return
        tags = {"study": quoted(summary.key), "role": "study"}
        self._parent = self._create(summary.name, tags, _now())

    def _search(self, key: str) -> Iterator[Any]:
        token = None
        condition = f"tags.study = '{quoted(key)}'"
        while True:
            page = self._client.search_runs(
                [self._experiment], condition, max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, name: str, tags: Mapping[str, str], started: int) -> StoredRun:
        run = self._client.create_run(
            self._experiment, start_time=started, tags=dict(tags), run_name=name
        )
        return stored_run(run)

    def _trial(self, record: Record, summary: Summary, parent: StoredRun) -> None:
        state = (record, summary.role(record), summary.baseline.measurements)
        if self._written.get(record.trial) == state:
            return
        desired = trial(record, summary)
        stored = self._trials.get(str(record.trial))
        length = round(1000 * desired.seconds)
        if stored is None:
            # Keeps trials that are written after an outage in order when sorted by start time.
            latest = max(run.started for run in (parent, *self._trials.values()))
            started = max(_now() - length, latest + 1)
            tags = dict(desired.tags) | {"mlflow.parentRunId": parent.id}
            stored = self._create(desired.name, tags, started)
            self._trials[str(record.trial)] = stored
        self._write(stored, desired)
        self._status(stored, desired.status, stored.started + length)
        self._written[record.trial] = state

    def _status(self, run: StoredRun, status: str, end: int | None = None) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status, end)
        run.status = status

    def _write(self, run: StoredRun, desired: DesiredRun) -> None:
        """Write the differences from the store's known content, in as few calls as possible."""
        now = _now()
        params = {k: v for k, v in desired.params.items() if k not in run.params}
        tags = {k: v for k, v in desired.tags.items() if run.tags.get(k) != v}
        changed = {k: v for k, v in desired.metrics.items() if run.metrics.get(k) != v}
        metrics = [Metric(k, v, now, 0) for k, v in changed.items()]
        metrics += [m for k, c in desired.curves.items() for m in self._missing(run, k, c, now)]
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

    def _missing(self, run: StoredRun, key: str, curve: list[float], now: int) -> list[Metric]:
        """Return the entries of a curve that the store lacks."""
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
        if data := datasets.inputs(summary.name, folder):  # the same ones are kept once
            self._client.log_inputs(parent.id, data)
        self._picks(summary)
        final_metrics = counts(summary) | {"front_size": float(len(summary.front))}
        changed = {k: v for k, v in final_metrics.items() if parent.metrics.get(k) != v}
        metrics = [Metric(k, v, _now(), len(summary.records) - 1) for k, v in changed.items()]
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
            words_of_run = " ".join(words.get(number, []))
            if run.tags.get("picks", "") != words_of_run:
                self._client.set_tag(run.id, "picks", words_of_run)
                run.tags["picks"] = words_of_run

    def _upload(self, run_id: str, artifact: Path) -> None:
        """Copy an artifact's files, unless files of the same names and sizes are in the store."""
        remote_sizes = {
            Path(f.path).name: f.file_size for f in self._client.list_artifacts(run_id, "artifact")
        }
        local_sizes = {f.name: f.stat().st_size for f in artifact.iterdir() if f.is_file()}
        if remote_sizes != local_sizes:
            self._send(self._client.log_artifacts, run_id, str(artifact), "artifact")

    def _send(self, send: Callable[..., None], *arguments: str) -> None:
        """Call `send`; any error of the artifact store's library is raised as an OSError."""
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(send, *arguments).exception()
        if error is not None:
            raise OSError(f"{type(error).__name__}: {error}") from error


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _now() -> int:
    return round(1000 * time.time())
