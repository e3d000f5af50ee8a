"""The Python API, which the command line also calls: run, resume, open, check, measure, verify."""

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from objectives.host import cores
from search import catalogue, run_folder, trust
from search.checks import check as checking
from search.driver import Search
from search.errors import BadArtifact, BadEnvironment, BadExperiment
from search.executors import Executor, executor_of
from search.experiment import (
    Experiment,
    NamedEntry,
    default_for,
    default_for_model,
    duration,
)
from search.measuring import ArtifactMeasurements, Crashed, MeasurementServer, Subject
from search.reporting import Console
from search.result import Result, load_result
from search.study import Front
from search.tracking import Background, Tracker
from search.trust import NOISE_SECONDS, Audits, Comparison, Noise, Verified
from spaces import Infeasible, Split


def run(
    experiment: Experiment | str | Path | None = None,
    *,
    task: str | Path | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
    trials: int | None = None,
    time: float | str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    out: str | Path | None = None,
    start: str | Path | None = None,
    quiet: bool = False,
    force: bool = False,
) -> Result:
    """Search until the budget is spent, confirm the front, and return the result.

    `experiment` is an Experiment or the path of a TOML file. Without it the space is chosen for
    `task`, a task.py, or for `model`, such as "timm:resnet18" with a folder of images as `data` and
    the weights in `checkpoint`; without any the embedded default is searched. `trials` and `time`
    (seconds, or a text such as "20m") replace the experiment's budget, `workers` and `ray` its
    executor.
    `out` is the run folder, by default runs/NAME; an existing search in it is continued, if code,
    data, settings and versions are those with which it began, or with `force`, which the records
    note. `start` is the folder of an ended run, of another device or of a related model: the
    points of its front, as far as the space has them, are tried after the baselines. `quiet` prints
    no progress. Ctrl+C keeps all measurements and raises Interrupted. Raises
    SearchError.
    """
    chosen = experiment_of(experiment, task, model, data, checkpoint)
    chosen = with_budget(chosen, trials, time, workers, ray)
    source = front_of(start) if start else None
    folder = Path(out) if out else Path("runs") / chosen.name
    return _run_search(chosen, folder, quiet, force, source)


def resume(
    folder: str | Path,
    *,
    trials: int | None = None,
    time: float | str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    quiet: bool = False,
    force: bool = False,
) -> Result:
    """Continue the search of a run folder, with a new budget or executor if given; see `run`."""
    folder = Path(folder)
    experiment = with_budget(run_folder.reopen(folder), trials, time, workers, ray)
    return _run_search(experiment, folder, quiet, force)


def open(folder: str | Path) -> Result:  # as in search.open("runs/mine")
    """Return the result of a run folder, also of an unfinished search; raises BadRun."""
    return load_result(Path(folder))


def check(experiment: Experiment | str | Path) -> list[str]:
    """Check an experiment and its task without a trial; return the findings, one line each.

    Raises SearchError at the first fault.
    """
    return checking.check(experiment_of(experiment))


def measure(
    artifact: str | Path, *, split: Split = "validation", task: str | Path | None = None
) -> ArtifactMeasurements:
    """Load an artifact in fresh processes and measure it as a trial does.

    `task` is the path of the task's file, if it was moved. Raises BadArtifact if the artifact was
    altered or its measurement fails, BadTask if the task's file is missing, and BadEnvironment if
    this machine lacks what the artifact needs.
    """
    artifact, file = Path(artifact).resolve(), Path(task) if task else None
    Subject.recorded(artifact, file)  # fails early, and imports the libraries before the forks
    with (
        tempfile.TemporaryDirectory() as data,
        contextlib.closing(MeasurementServer(print_traces=False)) as server,
    ):
        try:
            return server.recorded(artifact, file, split=split, data=Path(data))
        except Crashed as error:
            raise BadArtifact(f"{artifact} cannot be measured: {error}") from error
        except Infeasible as error:
            raise BadEnvironment(f"{artifact} cannot be measured here: {error}") from error


def verify(folder: str | Path, *, trial: int | None = None, quiet: bool = False) -> list[Verified]:
    """Rebuild the baseline and the front of a run, or one trial, and compare files, scores, times.

    See `search.trust.verify`; `quiet` prints no progress.
    """
    with _threads(cores()), contextlib.closing(Console(quiet=quiet)) as console:
        return trust.verify(folder, trial=trial, say=console.say)


def audit(folder: str | Path, *, seed: int | None = None) -> Audits:
    """Time one member of a run's front again, drawn at random; see `search.trust.audit`."""
    return trust.audit(folder, seed=seed)


def compare(first: str | Path, second: str | Path, *, quiet: bool = False) -> Comparison:
    """Return the fronts of two runs on one scale: see `search.trust.compare`."""
    with contextlib.closing(Console(quiet=quiet)) as console:
        return trust.compare(first, second, say=console.say)


def noise(*, seconds: float = NOISE_SECONDS) -> Noise:
    """Return the noise of this machine now, told in about ten seconds: see `search.trust.noise`."""
    return trust.noise(seconds)


def experiment_of(
    experiment: Experiment | str | Path | None,
    task: str | Path | None = None,
    model: str | None = None,
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> Experiment:
    """Return an experiment as it is, of a file, of a task or a model, or the embedded default.

    Raises BadExperiment if several of these are given, or data or a checkpoint without a model.
    """
    if sum(source is not None for source in (experiment, task, model)) > 1:
        raise BadExperiment("give an experiment, a task or a model: one of them")
    if model is None and (data is not None or checkpoint is not None):
        raise BadExperiment("--data and --checkpoint belong to a --model, as timm:resnet18")
    if isinstance(experiment, Experiment):
        return experiment
    if task is not None:
        return default_for(Path(task))
    if model is not None:
        return default_for_model(model, data, checkpoint)
    return Experiment.load(Path(experiment) if experiment else embedded())


def embedded() -> Path:
    """Return the path of the embedded default, which searches on handwritten digits."""
    return catalogue.home("search.experiment") / "digits.toml"


def with_budget(
    experiment: Experiment,
    trials: int | None,
    time: float | str | None,
    workers: int | None,
    ray: str | None,
) -> Experiment:
    """Return the experiment with the given values in place of its own budget and executor."""
    changes: dict[str, Any] = {}
    if trials is not None:
        if trials < 1:
            raise BadExperiment(f"--trials must be a positive integer, got {trials}")
        changes["trials"] = trials
    if time is not None:
        changes["time"] = duration(time)
    if workers is not None and workers < 1:
        raise BadExperiment(f"--workers must be a positive integer, got {workers}")
    if ray is not None or workers not in (None, 1):
        settings = {"workers": workers, "address": ray}
        fields = {k: v for k, v in settings.items() if v is not None}
        changes["executor"] = NamedEntry("ray", fields)
    return dataclasses.replace(experiment, **changes)


def front_of(folder: str | Path) -> Front:
    """Return the path of a run, its baseline and the members of its front; raises BadRun."""
    folder = Path(folder).resolve()
    run_folder.require(folder)
    baseline, members, _ = run_folder.read_front(folder)
    return str(folder), baseline, members


def _run_search(
    experiment: Experiment, folder: Path, quiet: bool, force: bool, source: Front | None = None
) -> Result:
    """Search in a run folder, which is locked until the search ends."""
    if multiprocessing.parent_process() is not None:
        raise BadExperiment(
            "a search was begun while one of its processes imports the script that begins it: put "
            'it under `if __name__ == "__main__":`'
        )
    console = Console(quiet=quiet)
    with _threads(cores()), run_folder.locked(folder):
        executor = executor_of(experiment, folder, cores())
        for notice in executor.notices():
            console.say(notice)
        search = Search(
            experiment=experiment,
            folder=folder,
            executor=executor,
            tracker=functools.cache(lambda: _tracker(console, executor)),
            console=console,
            command=_command(),
            force=force,
            source=source,
        )
        try:
            return Result(summary=search.run())
        finally:
            console.close()
            executor.close()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of OpenMP threads for the processes of the search, unless the user has."""
    previous = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = previous or str(count)
    try:
        yield
    finally:
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]


def _tracker(console: Console, executor: Executor) -> Tracker:
    """Return the MLflow tracker, in the background unless the executor needs this machine quiet.

    A quiet executor measures on this machine; the tracker then writes between trials.
    """

    def make() -> Tracker:
        from search.tracking import mlflow_store  # late: MLflow takes seconds to import

        return mlflow_store.MlflowTracker(warn=console.say)

    return make() if executor.quiet else Background(make)


def _command() -> str:
    """Return the command or call by which the search can be repeated."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    if program in ("__main__.py", "paretune"):
        return "python -m search " + shlex.join(sys.argv[1:])
    return f"search.run(...) in {program or 'Python'}"
