"""One trial in a process of its own: a job comes in on standard input, lines of JSON go out.

Started as `python -m search.executors._worker`. Whatever user code prints goes to the log.
"""

import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from search import confirm, trial
from search.bar import Bar
from search.experiment import Experiment
from search.lane import Lane, die_with_parent


def main() -> int:
    """Do the job on standard input; the last line out is its result."""
    die_with_parent()
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("default")
    try:
        job = json.loads(sys.stdin.read())
        torch.set_num_threads(1)  # whatever user code computes while it is imported
        experiment = Experiment.parse(job["text"], Path(job["folder"]))
        for name in job["runtimes"]:
            experiment.runtime(name)
        experiment.task.describe()
        # After the imports, which take seconds and which its forks share, and before anything is
        # computed on several threads: those would not survive a fork.
        lane = Lane()
        try:
            _send(channel, result=_do(job, experiment, lane, channel))
        finally:
            lane.close()
    except Exception as error:
        traceback.print_exc()
        _send(channel, error=f"{type(error).__name__}: {_first_line(error)}")
    return 0


def _do(job: dict[str, Any], experiment: Experiment, lane: Lane, channel: IO[str]) -> Any:
    torch.set_num_threads(job["threads"])
    if job["kind"] == "confirm":
        return confirm.measure(experiment, job, lane)

    def progress(stage: str, done: int, of: int, detail: str) -> None:
        _send(channel, stage=stage, done=done, of=of, detail=detail)

    bench = trial.Bench(
        experiment=experiment,
        folder=Path(job["run"]),
        trial=job["trial"],
        lane=lane,
        progress=progress,
        bar=Bar.from_json(job["bar"]) if job["bar"] else None,
    )
    return trial.evaluate(bench, job["point"]).to_json()


def _send(channel: IO[str], **message: Any) -> None:
    channel.write(json.dumps(message, allow_nan=False) + "\n")
    channel.flush()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:500]


if __name__ == "__main__":
    sys.exit(main())
