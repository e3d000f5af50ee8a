"""What the commands do, apart from reading their arguments."""

import contextlib
import dataclasses
import functools
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from search import catalogue, run_folder
from search.checks import check
from search.driver import Executor, Search, Tracker
from search.errors import RESUMABLE, BadArtifact, BadEnvironment, BadExperiment, BadRun
from search.executors.local import Local
from search.experiment import Experiment, default_for, duration
from search.measuring import Crashed, Lane, Subject, checked
from search.reporting import Console, Summary, front_table, summary_of
from search.study import pick
from search.tracking import Mirror, addresses
from spaces import Infeasible, Interval, Split, Technique

DIGITS = catalogue.home("search.experiment") / "digits.toml"


def asked(experiment: Path | None, task: Path | None) -> Experiment:
    """Return the experiment of a file, of a task alone, or the embedded default."""
    if task is not None:
        return default_for(task)
    return Experiment.load(experiment or DIGITS)


def run(
    experiment: Experiment,
    out: Path | None,
    *,
    dry_run: bool,
    trials: int | None,
    time: str | None,
    workers: int | None,
    ray: str | None,
    json: bool,
) -> int:
    """Search, and print the front; with `dry_run` print the plan only.

    Returns RESUMABLE for a front that could not be confirmed: its numbers are weaker.
    """
    if workers is not None and workers < 1:
        raise BadExperiment(f"--workers must be a positive integer, got {workers}")
    if trials is not None:
        if trials < 1:
            raise BadExperiment(f"--trials must be a positive integer, got {trials}")
        experiment = dataclasses.replace(experiment, trials=trials)
    if time is not None:
        experiment = dataclasses.replace(experiment, time=duration(time))
    if dry_run:
        print("\n".join(check.plan(experiment)))
        return 0
    place = out or Path("runs") / experiment.name
    summary = _searched(experiment, place, workers, ray)
    print(_as_json(summary) if json else front_table(summary))
    return 0 if summary.confirmed else RESUMABLE


def _searched(experiment: Experiment, place: Path, workers: int | None, ray: str | None) -> Summary:
    console = Console()
    command = "python -m search " + shlex.join(sys.argv[1:])
    threads = run_folder.cores()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    where = _executor(experiment, place, threads, workers, ray, console.say)
    with run_folder.locked(place), where as executor:
        search = Search(
            experiment=experiment,
            folder=place,
            executor=executor,
            tracker=functools.cache(lambda: _tracker(console, executor)),
            console=console,
            command=command,
        )
        try:
            return search.run()
        finally:
            console.close()


@contextlib.contextmanager
def _executor(
    experiment: Experiment,
    place: Path,
    cores: int,
    workers: int | None,
    address: str | None,
    warn: Callable[[str], None],
) -> Iterator[Executor]:
    """Yield what runs trials: this process' own children, or the workers of a Ray cluster."""
    if address is None and workers in (None, 1):
        yield Local(experiment=experiment, folder=place, threads=cores)
        return
    try:
        from search.executors.ray import RayTune, unguarded
    except ImportError as error:
        raise BadEnvironment(
            f"--workers and --ray need Ray ({error}); install it: pip install 'ray[tune]'"
        ) from error
    executor = RayTune(
        experiment=experiment,
        folder=place,
        address=address,
        wanted=workers,
        cores=cores,
    )
    if warning := unguarded(address):
        warn(warning)
    try:
        yield executor
    finally:
        executor.close()


def _tracker(console: Console, executor: Executor) -> Tracker:
    """Return what writes to MLflow; beside the search where workers would wait for it.

    A machine that is measured on does nothing else: there it writes between the trials.
    """

    def make() -> Tracker:
        from search.tracking import (
            mlflow_store,  # MLflow: only here, and late: it takes seconds to import
        )

        return mlflow_store.Tracker(warn=console.say)

    return make() if isinstance(executor, Local) else Mirror(make)


def ui(folder: Path | None, port: int) -> NoReturn:
    """Become the server of the MLflow UI, so that whatever ends this process ends it."""
    known = run_folder.tracked(folder) if folder else {}
    command = addresses.ui_command(known.get("store") or addresses.default_store(), port)
    server = f"http://127.0.0.1:{port}"
    page = (
        addresses.ui_page(server, known["experiment"], known["run"]) if "run" in known else server
    )
    print(f"{page}  (Ctrl+C ends it)", file=sys.stderr, flush=True)
    os.execve(command[0], command, addresses.ui_environment())


def front(folder: Path, *, as_json: bool) -> str:
    """Return the front of a run as a table, or as its JSON."""
    summary = _stored(folder)
    return _as_json(summary) if as_json else front_table(summary)


def export(folder: Path, how: str, to: Path) -> str:
    """Copy the artifact of a member of the front to a new folder; return what it is.

    Raises BadRun when the folder exists, BadArtifact when files were altered.
    """
    summary = _stored(folder)
    record = pick(summary.front, how, summary.axes, summary.baseline)
    if to.exists() and any(to.iterdir()):
        raise BadRun(f"{to} exists and is not empty; choose another folder with --to")
    _copy(folder / str(record.artifact), to)
    values = {k: m.to_json() for k, m in record.measurements.items()}
    content = {"trial": record.trial, "runtime": record.runtime, "point": record.point}
    return json.dumps({"artifact": str(to), **content, "measurements": values}, indent=1)


def _copy(source: Path, to: Path) -> None:
    draft = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        checked(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, draft)
        checked(draft)
        if to.exists():
            to.rmdir()
        draft.replace(to)
    except OSError as error:
        raise BadEnvironment(f"{to} cannot be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def measure(artifact: Path, split: Split, task_file: Path | None) -> dict[str, Any]:
    """Return the measurements of an artifact, taken as a trial takes them.

    Raises BadArtifact, and BadEnvironment where this host has not what the artifact needs.
    """
    artifact = artifact.resolve()
    Subject.recorded(artifact, task_file)  # tells what is wrong, and imports for all processes
    with tempfile.TemporaryDirectory() as data, contextlib.closing(Lane(traces=False)) as lane:
        try:
            found = lane.recorded(artifact, task_file, split=split, data=Path(data))
        except Crashed as error:
            raise BadArtifact(f"{artifact} cannot be measured: {error}") from error
        except Infeasible as error:
            raise BadEnvironment(f"{artifact} cannot be measured here: {error}") from error
    values = {k: m.to_json() for k, m in found.measurements.items()}
    answer = {"split": split, "measurements": values} | found.facts()
    return answer | ({"placement": found.placement} if found.placement else {})


def listed(*, as_json: bool) -> str:
    """Return all that an experiment can name, with dimensions, units and values."""
    content: dict[str, Any] = {
        name: {
            f.name: {"values": _values(f.metadata["dimension"]), "unit": f.metadata["unit"]}
            for f in dataclasses.fields(catalogue.find("technique", name, Technique))
            if "dimension" in f.metadata
        }
        for name in catalogue.names("technique")
    }
    others = {f"{k}s": catalogue.names(k) for k in catalogue.PACKAGES if k != "technique"}
    if as_json:
        return json.dumps({"techniques": content, **others}, indent=1)
    lines = ["techniques  [space.NAME]"]
    for name, fields in content.items():
        lines.append(f"  {name}")
        lines += [f"    {f:<18} {d['values']}  ({d['unit']})" for f, d in fields.items()]
    lines += [f"{kind}  {', '.join(known)}" for kind, known in others.items()]
    return "\n".join(lines)


def _values(dimension: Any) -> str:
    found = dimension.values()
    if found is None:
        return f"{dimension.low:g} to {dimension.high:g}"
    if len(found) > 6 and isinstance(dimension, Interval):
        return f"{found[0]:g} to {found[-1]:g} in steps of {dimension.step:g}"
    return ", ".join(str(v) for v in found)


def _stored(folder: Path) -> Summary:
    """Return the summary of a finished run from its folder."""
    experiment = run_folder.reopen(folder)
    baseline, members, confirmed = run_folder.read_front(folder)
    return summary_of(
        experiment, folder, "", [baseline, *members], members, baseline, confirmed=confirmed
    )


def _as_json(summary: Summary) -> str:
    content = {
        "baseline": summary.baseline.to_json(),
        "front": [r.to_json() for r in summary.front],
        "confirmed": summary.confirmed,
        "run": summary.run_folder,
    }
    return json.dumps(content, indent=1, allow_nan=False)
