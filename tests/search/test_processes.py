"""What is timed is timed in several processes: all count, their number is told, crashes are not."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from objectives import turns
from objectives.metrics.latency import Latency
from search.evaluation import TrialContext, confirm, evaluate
from search.experiment.experiment import Experiment
from search.measuring import worker
from search.measuring.server import Crashed, MeasurementServer
from search.records.record import Record

pytestmark = pytest.mark.usefixtures("same_threads")
Bed = tuple[TrialContext, Path]


@pytest.fixture
def bed(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Bed]]:
    """What makes a bench whose processes leave their number in a file when they time something.

    Processes of the lane are forked from here, so that they see what was patched before.
    """
    pids, lanes = project / "pids", []
    torch.set_num_threads(1)

    def observe(self: Latency, program: Any, batches: Any, seconds: float) -> list[float]:
        del self, program, batches
        with pids.open("a") as file:
            file.write(f"{os.getpid()} {seconds}\n")
        if (project / "crash").exists() and len(set(processes(pids))) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return [2.0, 3.0, 4.0]

    monkeypatch.setattr(Latency, "observe", observe)

    def make() -> Bed:
        experiment = Experiment.load(project / "experiment.toml")
        experiment.runtime("null")
        lanes.append(MeasurementServer())
        bench = TrialContext(
            experiment=experiment,
            folder=project / "run",
            trial=0,
            server=lanes[-1],
            progress=lambda *news: None,
        )
        return bench, pids

    yield make
    for lane in lanes:
        lane.close()


def processes(pids: Path) -> list[int]:
    return [int(line.split()[0]) for line in pids.read_text().splitlines()]


@pytest.fixture(params=[(0.01, 3), (0.9, 3), (1.5, 2), (2.5, 1)])
def loads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let loading take long; return in how many processes is then timed."""
    taken, count = request.param
    monkeypatch.setattr(worker, "_loading_time", lambda loading, target: taken)
    return int(count)


def test_the_processes_share_all_of_the_timed_runs_however_long_they_load(
    loads: int, bed: Callable[[], Bed]
) -> None:
    bench, pids = bed()
    record = trial(bench)
    assert record.facts.processes == len(set(processes(pids))) == loads
    pids.unlink()
    job = {"records": [record.to_json()], "reference": record.to_json(), "run": str(bench.folder)}
    answer = confirm.measure(bench.experiment, job, bench.server)["0"]
    assert answer["facts"]["processes"] == len(set(processes(pids))) == loads


def trial(bench: TrialContext) -> Record:
    return evaluate(bench, bench.experiment.space.neutral() | {"deploy.runtime.name": "null"})


def test_a_trial_is_timed_in_several_processes_and_says_in_how_many(
    bed: Callable[[], Bed],
) -> None:
    bench, pids = bed()
    record = trial(bench)
    assert (record.state, record.reason) == ("complete", None)
    assert len(set(processes(pids))) == worker.ENOUGH  # its times agree
    assert record.facts.processes == worker.ENOUGH
    assert record.facts.precision <= worker.PRECISION
    assert record.measurements["latency"].samples >= turns.INDISPENSABLE * worker.ENOUGH
    assert set(record.measurements["latency"].to_json()) == {
        "value", "unit", "low", "high", "samples",
    }  # fmt: skip


def test_what_loads_slowly_is_timed_in_one_process_and_its_interval_is_wider(
    bed: Callable[[], Bed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LOADING", 0.0)
    bench, pids = bed()
    record = trial(bench)
    assert len(set(processes(pids))) == 1
    assert record.facts.processes == 1
    alone = record.measurements["latency"]
    several = Latency().summary([[[2.0]] * turns.INDISPENSABLE] * worker.ENOUGH)
    assert alone.value == 2.0
    assert alone.low < several.low < several.high < alone.high


def test_a_crash_of_a_further_process_is_told_and_costs_one_answer(
    bed: Callable[[], Bed], project: Path
) -> None:
    (project / "crash").touch()
    bench, pids = bed()
    with pytest.raises(
        Crashed, match="crashed while measuring: its process was killed by signal 9"
    ):
        trial(bench)
    assert len(set(processes(pids))) == 2
    (project / "crash").unlink()
    assert trial(bench).state == "complete"


def test_a_front_is_confirmed_in_several_processes_that_share_the_rounds(
    bed: Callable[[], Bed],
) -> None:
    bench, pids = bed()
    record = trial(bench)
    pids.unlink()
    job = {"records": [record.to_json()], "reference": record.to_json(), "run": str(bench.folder)}
    answer = confirm.measure(bench.experiment, job, bench.server)["0"]
    revised = confirm.revised(record, answer)
    assert len(set(processes(pids))) == worker.ENOUGH
    assert revised.measurements["latency"] == record.measurements["latency"]  # it is the reference
    assert revised.facts.processes == worker.ENOUGH
    assert revised.test["accuracy"].samples == record.measurements["accuracy"].samples
