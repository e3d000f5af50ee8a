"""Main function of a trial's process, which receives a job and sends messages as JSON.

The output of user code goes to a log file.
"""

import gc
import io
import os
import sys
import threading
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from objectives.host import enrolled
from search.evaluation import TrialContext, confirm, evaluate, steps
from search.experiment import Experiment
from search.measuring import MeasurementServer, Reference
from search.records import Rung
from spaces import processes, said
from spaces.devices import device_of


def main(connection: Connection, job: dict[str, Any]) -> None:
    """Do a job in a new process, and send its result as the last message."""
    processes.die_with_parent()
    os.setsid()  # the driver alone handles Ctrl+C
    # tqdm's default lock is a system semaphore, which a killed trial would leave behind.
    tqdm.set_lock(threading.RLock())
    _set_up(job)
    warnings.simplefilter("default")
    try:
        torch.set_num_threads(1)  # for computations of user code while it is imported
        gc.disable()  # collections during imports take longer than the imports
        experiment = Experiment.of(job["experiment"], Path(job["folder"]))
        for name in job["runtimes"]:
            experiment.runtime(name)
        gc.freeze()
        gc.enable()
        if device_of(experiment.target.device).accelerator is None:
            experiment.task.describe()
        # The server starts after the imports, which take seconds and are shared with its forks, and
        # before any computation starts threads, which do not survive a fork. Neither does an
        # accelerator that the user's imports start: there each measurement imports them itself.
        server = MeasurementServer()
        try:
            with enrolled():
                _send(connection, result=_run_job(job, experiment, server, connection))
        finally:
            server.close()
    except Exception as error:
        traceback.print_exc()
        _send(connection, error=said(error))
    sys.stderr.flush()


def _set_up(job: dict[str, Any]) -> None:
    """Take over the driver's environment and folder, and redirect all output to the log."""
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _run_job(
    job: dict[str, Any], experiment: Experiment, server: MeasurementServer, connection: Connection
) -> Any:
    torch.set_num_threads(job["threads"])
    if job["kind"] == "confirm":
        return confirm.measure(experiment, job, server)

    def progress(stage: str, done: int, of: int, detail: str) -> None:
        _send(connection, stage=stage, done=done, of=of, detail=detail)

    def judge(rung: Rung) -> str | None:
        _send(connection, rung=rung.to_json())
        stop: str | None = processes.receive(connection)["stop"]
        return stop

    if job["kind"] == "steps":
        return steps.measure(experiment, job, server)
    context = TrialContext(
        experiment=experiment,
        folder=Path(job["run"]),
        trial=job["trial"],
        server=server,
        progress=progress,
        judge=judge,
        reference=Reference.of(job, Path(job["run"])),
    )
    return evaluate(context, job["point"]).to_json()


def _send(connection: Connection, **message: Any) -> None:
    processes.send(connection, message)
