"""The exclusive lane: nothing of ours runs beside a timed measurement."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from objectives.host.lane import exclusive, others, revive

ROOT = Path(__file__).parents[2]
CODE = """
import os, sys, time
os.setsid()
from objectives.host import enrolled
with enrolled():
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """Another trial on this host, in a lane of the test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield psutil.Process(process.pid)
        process.kill()


def stopped(process: psutil.Process, wanted: bool) -> bool:
    """Whether a process is stopped, or not, within a second."""
    for _ in range(50):
        if (process.status() == psutil.STATUS_STOPPED) is wanted:
            return True
        time.sleep(0.02)
    return False


def test_other_trials_are_paused_while_one_is_timed(trial: psutil.Process) -> None:
    with exclusive():
        assert stopped(trial, True)
    assert stopped(trial, False)


def test_a_gpu_measurement_pauses_nobody(trial: psutil.Process) -> None:
    with exclusive("cuda"):
        assert not stopped(trial, True)


def test_a_paused_trial_is_continued_when_nobody_measures(trial: psutil.Process) -> None:
    trial.suspend()
    assert stopped(trial, True)
    with exclusive():
        revive(trial.pid)
        assert stopped(trial, True)
    trial.suspend()
    assert stopped(trial, True)
    revive(trial.pid)
    assert stopped(trial, False)


def test_the_load_of_others_is_that_of_the_cores_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(interval: float, percpu: bool) -> list[float]:
        del interval
        assert percpu
        return [100.0, 30.0, 10.0]

    monkeypatch.setattr(psutil, "cpu_percent", busy)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {1, 2}, raising=False)
    assert others() == pytest.approx(0.2)
