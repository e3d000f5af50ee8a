"""What every executor of the catalogue promises; a new file is tested with no edit here."""

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex * 2)

import psutil
import pytest

from search import catalogue
from search.errors import SearchError
from search.executors import Executor, executor_of
from search.experiment.experiment import Experiment, NamedEntry
from search.records.record import Record
from search.study.queue import Queue
from search.study.study import Study

NAMES = [
    # all but the default one start a cluster
    pytest.param(n, marks=pytest.mark.slow if n == "ray" else ())
    for n in catalogue.names("executor")
]


@contextlib.contextmanager
def prepared(name: str, project: Path, trials: int) -> Iterator[Executor]:
    """An executor for the tiny experiment; at the end no process of it is left."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    experiment = Experiment.load(project / "experiment.toml")
    experiment = dataclasses.replace(experiment, trials=trials, executor=NamedEntry(name))
    run = project / f"run-{uuid.uuid4().hex}"
    run.mkdir()
    executor = executor_of(experiment, run, cores=2)
    executor.prepare()
    try:
        yield executor
    finally:
        executor.close()
    forkers = {p.pid for p in psutil.Process().children() if "forkserver" in " ".join(p.cmdline())}
    trackers = {p.pid for p in psutil.Process().children() if "tracker" in " ".join(p.cmdline())}
    left = {p.pid for p in psutil.Process().children(recursive=True)}
    assert left - before - forkers - trackers == set()


def searched(executor: Executor) -> Study:
    """Return the study after a search."""
    experiment = executor.experiment
    study = Study.open(
        executor.folder,
        experiment,
        lambda point: executor.refusal(experiment.space.plan(point), frozenset({"Linear"})),
    )
    queue = Queue(
        study,
        seconds=None,
        on_record=lambda record: None,
        on_start=lambda asked: None,
        progress=lambda *message: None,
    )
    executor.run(queue)
    assert queue.finished
    assert queue.open == {}
    return study


@pytest.mark.parametrize("name", NAMES)
def test_all_points_are_evaluated_and_the_front_is_measured_again(name: str, project: Path) -> None:
    with prepared(name, project, trials=3) as executor:
        study = searched(executor)
        done = [r for r in study.records if r.state != "infeasible"]
        assert len(done) == 3
        assert study.baseline is not None
        members: list[Record] = [study.baseline, *study.front()]
        answers = executor.confirm(members, members[0], lambda *message: None)
        assert {str(r.trial) for r in members} == answers.keys()
        assert all(answer["measurements"]["latency"] for answer in answers.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_that_dies_is_a_failed_one_with_a_reason(name: str, project: Path) -> None:
    task = project / "task.py"
    dying = f"import os; os.getpid() == {os.getpid()} or os._exit(7)\n    torch.manual_seed(0)"
    task.write_text(task.read_text().replace("torch.manual_seed(0)", dying))
    with prepared(name, project, trials=2) as executor:
        study = searched(executor)
    failed = [r for r in study.records if r.state == "failed"]
    assert failed
    assert all("exit code 7" in str(r.reason) for r in failed)


def test_an_executor_that_does_not_exist_is_one_line(project: Path) -> None:
    experiment = Experiment.load(project / "experiment.toml")
    for named in (NamedEntry("locl"), NamedEntry("local", {"hosts": 3})):
        asked = dataclasses.replace(experiment, executor=named)
        with pytest.raises(
            SearchError, match=r"Did you mean 'local'|there is no field of executor"
        ):
            executor_of(asked, project, cores=1)
