"""Files of a run folder: experiment, environment, records and front, with one writer at a time."""

import contextlib
import datetime
import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import tomli_w

from objectives.artifacts import versions
from objectives.host import cores, processor, write_json, write_text
from search.errors import BadEnvironment, BadRun
from search.experiment import Experiment
from search.records import Record

EXPERIMENT = "experiment.toml"
ENVIRONMENT = "environment.json"
RECORDS = "records.jsonl"
FRONT = "front.json"
TRACKING = "tracking.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder for writing, and create it if there is none.

    Raises BadRun if another process holds the lock, BadEnvironment if the folder cannot be written.
    """
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise BadRun(
                f"{folder} is in use by process {owner}; wait for it, stop it, or choose another "
                "folder with --out"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock_file(folder: Path) -> TextIO:
    """Create a run folder and open its lock; raises BadEnvironment if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("a+")
    except OSError as error:
        raise BadEnvironment(
            f"the run folder {folder} cannot be written: {error.strerror}: {error.filename}; "
            "choose another one with --out"
        ) from error


def begin(
    folder: Path,
    experiment: Experiment,
    command: str,
    made_from: Mapping[str, Any],
    start: Mapping[str, Any] | None = None,
) -> None:
    """Write the experiment and the environment, unless an earlier start of the search has.

    `made_from` describes what the records are made from. It is added to an environment without it.
    `start` has the points of another run with which this one starts.
    """
    if not (folder / EXPERIMENT).exists():
        _store_experiment(folder, experiment)
    started = {} if start is None else {"start": start}
    known = read_environment(folder) or environment(experiment, command) | started
    if "made_from" not in known:
        write_json(folder / ENVIRONMENT, known | {"made_from": made_from})


def note_changes(
    folder: Path,
    experiment: Experiment,
    made_from: Mapping[str, Any],
    changes: Sequence[str],
    trial: int,
) -> None:
    """Write what a run is made from since `trial`, and the changes; discard cached results."""
    known = read_environment(folder) or {}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {"from_trial": trial, "date": date, "changes": list(changes)}
    known["continued"] = [*known.get("continued", ()), entry]
    _store_experiment(folder, experiment)
    write_json(folder / ENVIRONMENT, known | {"made_from": made_from})
    shutil.rmtree(folder / "cache", ignore_errors=True)


def read_environment(folder: Path) -> dict[str, Any] | None:
    """Return the environment of a run, or None if none was begun in the folder.

    Raises BadRun if it cannot be read.
    """
    path = folder / ENVIRONMENT
    if not (path.is_file() and (folder / EXPERIMENT).is_file()):
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise BadRun(f"{path} cannot be read: {error}") from error
    return content


def _store_experiment(folder: Path, experiment: Experiment) -> None:
    write_text(folder / EXPERIMENT, experiment.text or tomli_w.dumps(experiment.to_json()))


def require(folder: Path) -> None:
    """Raise BadRun if a folder is not a run folder."""
    for name in (EXPERIMENT, ENVIRONMENT):
        if not (folder / name).is_file():
            raise BadRun(f"{folder} is not a run folder: it has no {name}; runs lie under runs/")


def reopen(folder: Path) -> Experiment:
    """Return the experiment of a run folder; raises BadRun if the folder is not one."""
    require(folder)
    try:
        origin = (read_environment(folder) or {})["experiment_folder"]
    except KeyError as error:
        raise BadRun(f"{folder / ENVIRONMENT} cannot be read: {error}") from error
    return Experiment.parse((folder / EXPERIMENT).read_text(), Path(origin))


def environment(experiment: Experiment, command: str) -> dict[str, Any]:
    """Return versions, processor, commit, seed and origin of an experiment."""
    return {
        "command": command,
        "experiment_folder": str(experiment.folder),
        "seed": experiment.seed,
        "versions": versions(*map(experiment.runtime, experiment.runtime_names())),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "commit": _commit(experiment.folder),
        "target": f"{experiment.target.device}, {experiment.target.threads} thread(s), "
        f"batch of {experiment.target.batch_size}",
    }


def store_records(folder: Path, records: Sequence[Record]) -> None:
    """Write one line for each record. The file is for readers; the study holds the records."""
    write_text(folder / RECORDS, "".join(f"{record.line()}\n" for record in records))


def append_record(folder: Path, record: Record) -> None:
    """Append the line of one record."""
    with (folder / RECORDS).open("a") as file:
        file.write(f"{record.line()}\n")


def read_records(folder: Path) -> list[Record]:
    """Return all records of a run, also of an unfinished one; raises BadRun for an invalid line."""
    path = folder / RECORDS
    try:
        lines = path.read_text().splitlines() if path.is_file() else []
        return [Record.from_json(json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise BadRun(f"{path} cannot be read: {error}") from error


def read_front(folder: Path) -> tuple[Record, list[Record], bool]:
    """Return the baseline of a run, its front, and True if the front is confirmed.

    Raises BadRun if the run has no front or an invalid one.
    """
    path = folder / FRONT
    if not path.is_file():
        raise BadRun(
            f"{folder} has no {FRONT}: the search has not ended; continue it with "
            f"python -m search resume {folder}"
        )
    try:
        content = json.loads(path.read_text())
        front = [_member(r) for r in content["front"]]
        return _member(content["baseline"]), front, content.get("confirmed", True)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRun(f"{path} cannot be read: {error}") from error


def _member(fields: dict[str, Any]) -> Record:
    """Return a record of the front, without its differences to the baseline."""
    for part in ("measurements", "test"):
        for measurement in fields.get(part, {}).values():
            measurement.pop("difference", None)
    return Record.from_json(fields)


def store_tracking(folder: Path, store: str, location: tuple[str, str] | None) -> None:
    """Write the address of the study's run in the tracker, from which `ui` opens its page."""
    if location is not None:
        experiment, run = location
        write_json(folder / TRACKING, {"store": store, "experiment": experiment, "run": run})


def read_tracking(folder: Path) -> dict[str, str]:
    """Return the address of a run in the tracker, or {} if it has none.

    Raises BadRun if the folder is not a run folder.
    """
    reopen(folder)
    path = folder / TRACKING
    address: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
    if "***" in address.get("store", ""):  # redacted password: the environment has the full address
        del address["store"]
    return address


def discard_artifacts(folder: Path, keep: Sequence[Record]) -> None:
    """Delete all artifacts except those of the records to keep, and remains of killed trials."""
    names_to_keep = {Path(r.artifact).name for r in keep if r.artifact}
    root = folder / "artifacts"
    for path in root.iterdir() if root.is_dir() else ():
        if path.name not in names_to_keep:
            shutil.rmtree(path, ignore_errors=True)


def _commit(folder: Path) -> str | None:
    """Return the git commit of the experiment's folder, or None."""
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
