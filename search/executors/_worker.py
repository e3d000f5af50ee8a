"""One trial in a process of its own: a job comes in on standard input, lines of JSON go out.

Started as `python -m search.executors._worker`. Whatever user code prints goes to the log.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import IO, Any

from search.lane import Lane


def main() -> int:
    """Do the job on standard input; the last line out is its result."""
    _die_with_parent()
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lane = Lane()  # before anything starts a thread
    try:
        job = json.loads(sys.stdin.read())
        _send(channel, result=_do(job, lane, channel))
    except Exception as error:
        traceback.print_exc()
        _send(channel, error=f"{type(error).__name__}: {_first_line(error)}")
    finally:
        lane.close()
    return 0


def _do(job: dict[str, Any], lane: Lane, channel: IO[str]) -> Any:
    # Imported now: the lane's server must fork before these start threads.
    import torch

    from search.experiment import Experiment

    warnings.simplefilter("default")
    torch.set_num_threads(job["threads"])
    experiment = Experiment.parse(job["text"], Path(job["folder"]))
    if job["kind"] == "confirm":
        from search import confirm

        return confirm.measure(experiment, job, lane)
    from search import trial
    from search.bar import Bar

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


def _die_with_parent() -> None:
    """Ask Linux to end this process when the search is killed, so that nothing is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(main())
