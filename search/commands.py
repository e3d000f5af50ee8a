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

from search import catalogue, checking, folder, store
from search.console import Console, front_table
from search.default import default_for
from search.driver import Executor, Search, Tracker
from search.errors import RESUMABLE, BadArtifact, BadEnvironment, BadExperiment, BadRun
from search.executors.local import Local
from search.experiment import Experiment, duration
from search.front import pick
from search.lane import Crashed, Lane
from search.mirror import Mirror
from search.subject import Subject, checked
from search.summarize import summary_of
from search.summary import Summary
from spaces import Infeasible, Interval, Split, Technique

DIGITS = catalogue.ROOT / "experiments" / "digits.toml"


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
        print("\n".join(checking.plan(experiment)))
        return 0
    place = out or Path("runs") / experiment.name
    summary = _searched(experiment, place, workers, ray)
    print(_as_json(summary) if json else front_table(summary))
    return 0 if summary.confirmed else RESUMABLE


def _searched(experiment: Experiment, place: Path, workers: int | None, ray: str | None) -> Summary:
    console = Console()
    command = "python -m search " + shlex.join(sys.argv[1:])
    threads = folder.cores()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    where = _executor(experiment, place, threads, workers, ray, console.say)
    with folder.locked(place), where as executor:
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
        from search.executors._ray_cluster import unguarded
        from search.executors.ray_tune import RayTune
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
        from search import tracking  # MLflow: only here, and late: it takes seconds to import

        return tracking.Tracker(warn=console.say)

    return make() if isinstance(executor, Local) else Mirror(make)


def ui(run_folder: Path | None, port: int) -> NoReturn:
    """Become the server of the MLflow UI, so that whatever ends this process ends it."""
    known = folder.tracked(run_folder) if run_folder else {}
    command = store.ui_command(known.get("store") or store.default_store(), port)
    server = f"http://127.0.0.1:{port}"
    page = store.ui_page(server, known["experiment"], known["run"]) if "run" in known else server
    print(f"{page}  (Ctrl+C ends it)", file=sys.stderr, flush=True)
    os.execve(command[0], command, store.ui_environment())


def front(run_folder: Path, *, as_json: bool) -> str:
    """Return the front of a run as a table, or as its JSON."""
    summary = _stored(run_folder)
    return _as_json(summary) if as_json else front_table(summary)


def export(run_folder: Path, how: str, to: Path) -> str:
    """Copy the artifact of a member of the front to a new folder; return what it is.

    Raises BadRun when the folder exists, BadArtifact when files were altered.
    """
    summary = _stored(run_folder)
    record = pick(summary.front, how, summary.axes, summary.baseline)
    if to.exists() and any(to.iterdir()):
        raise BadRun(f"{to} exists and is not empty; choose another folder with --to")
    _copy(run_folder / str(record.artifact), to)
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
            for f in dataclasses.fields(catalogue.find("spaces", name, Technique))
            if "dimension" in f.metadata
        }
        for name in catalogue.names("spaces")
    }
    if as_json:
        rest = {kind: catalogue.names(f"objectives{dot}") for kind, dot in _OTHERS.items()}
        return json.dumps({"techniques": content, **rest}, indent=1)
    lines = ["techniques  [space.NAME]"]
    for name, fields in content.items():
        lines.append(f"  {name}")
        lines += [f"    {f:<18} {d['values']}  ({d['unit']})" for f, d in fields.items()]
    for kind, dot in _OTHERS.items():
        lines.append(f"{kind}  {', '.join(catalogue.names(f'objectives{dot}'))}")
    return "\n".join(lines)


_OTHERS = {"objectives": "", "runtimes": ".runtimes", "tasks": ".tasks"}


def _values(dimension: Any) -> str:
    found = dimension.values()
    if found is None:
        return f"{dimension.low:g} to {dimension.high:g}"
    if len(found) > 6 and isinstance(dimension, Interval):
        return f"{found[0]:g} to {found[-1]:g} in steps of {dimension.step:g}"
    return ", ".join(str(v) for v in found)


def _stored(run_folder: Path) -> Summary:
    """Return the summary of a finished run from its folder."""
    experiment = folder.reopen(run_folder)
    baseline, members, confirmed = folder.read_front(run_folder)
    return summary_of(
        experiment, run_folder, "", [baseline, *members], members, baseline, confirmed=confirmed
    )


def _as_json(summary: Summary) -> str:
    content = {
        "baseline": summary.baseline.to_json(),
        "front": [r.to_json() for r in summary.front],
        "confirmed": summary.confirmed,
        "run": summary.run_folder,
    }
    return json.dumps(content, indent=1, allow_nan=False)
