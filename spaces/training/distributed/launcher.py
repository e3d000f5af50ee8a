"""Recovery training on several devices: starts one process for each and looks after them."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from spaces import processes
from spaces.devices import device_of
from spaces.modules import surgery
from spaces.plan import Recovery
from spaces.task import Task
from spaces.technique import Infeasible
from spaces.training.defaults import normalised
from spaces.training.loop import Diverged, Outcome, Progress
from spaces.user_code import Unreachable
from spaces.wire import encode

WORKER = "spaces.training.distributed.worker"
JOB, REFERENCE, MODEL, RESULT = "job.json", "reference", "model", "result.safetensors"
ROOM = 0.5
"""Share of a device's memory that model, teacher and optimizer may take; activations the rest."""
GRACE = 2.0
"""Seconds in which the other processes may say why the first one failed."""


class Broken(RuntimeError):
    """One of the processes that train together failed; the message says which and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing:
    """How several devices hold the model, and the estimate that decided it."""

    sharded: bool
    needed: int
    """Bytes of weights, gradients, optimizer state and teacher."""
    room: int
    """Bytes that a device has for them."""


def sharing(model: nn.Module, reference: nn.Module, recovery: Recovery, kind: str) -> Sharing:
    """Return how devices of `kind` hold the model: whole where it fits, otherwise in parts.

    A float32 weight takes 4 bytes, its gradient 4, momentum 4 or AdamW's moments 8. Raises
    Infeasible when it must be sharded and what is asked for does not allow that.
    """
    weights = sum(p.numel() for p in model.parameters())
    taught = recovery.teacher_weight > 0 or recovery.feature_weight > 0
    needed = weights * (4 + 4 + (4 if normalised(model) else 8))
    needed += 4 * sum(p.numel() for p in reference.parameters()) if taught else 0
    device = device_of(kind)
    _, memory = device.memory()
    room = int(ROOM * (memory if device.accelerator else memory // recovery.devices))
    sharded = recovery.sharding == "shard" or (recovery.sharding == "auto" and needed > room)
    whole = any(not constraint.shardable for constraint in recovery.constraints)
    if sharded and (whole or recovery.dtype in ("float16", "float8")):
        what = "masks and grids of weights" if whole else recovery.dtype
        raise Infeasible(
            f"{what} cannot be kept to while the model is sharded over {recovery.devices} devices"
            f" (it needs {needed:,} bytes, a device has room for {room:,})"
        )
    return Sharing(sharded=sharded, needed=needed, room=room)


def train_together(
    model: nn.Module,
    reference: nn.Module,
    task: Task,
    recovery: Recovery,
    *,
    seed: int,
    progress: Progress,
) -> Outcome:
    """Train `model` in place on `recovery.devices` devices of its kind, on this machine.

    Each has a process that reads the task's data itself and keeps its part of every batch, on
    CPUs with its share of this process's threads. With the same batches the result is that of one
    device up to rounding if the task's loss is a mean over the samples. Raises Infeasible and
    Diverged as one device does, and Broken when a process fails.
    """
    device = device_of(next(model.parameters()).device)
    if (unit := device.accelerator) and (count := device.count()) < recovery.devices:
        raise Infeasible(f"{recovery.devices} {unit}s are asked for, this process sees {count}")
    sharded = sharing(model, reference, recovery, device.name).sharded
    try:
        described = {"task": encode(task), "recovery": encode(recovery)}
    except Unreachable as error:
        raise Infeasible(f"several devices cannot train it: {error}") from error
    job = described | {
        "seed": seed,
        "device": device.name,
        "count": recovery.devices,
        "sharded": sharded,
        "frozen": [n for n, p in model.named_parameters() if not p.requires_grad],
        "threads": max(1, torch.get_num_threads() // recovery.devices),
    }
    with tempfile.TemporaryDirectory(prefix="recovery-") as name:
        folder = Path(name)
        for part, content in ((REFERENCE, reference), (MODEL, model)):
            (folder / part).mkdir()
            surgery.save(folder / part, reference, content)
        (folder / JOB).write_text(json.dumps(job))
        with _started(folder, job) as ranks:
            outcome = _follow(ranks, progress)
        _take_over(model, folder)
    return outcome


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rank:
    """A process that trains, and the line to it."""

    number: int
    process: "subprocess.Popen[bytes]"
    line: Connection


@contextlib.contextmanager
def _started(folder: Path, job: dict[str, Any]) -> Iterator[list[_Rank]]:
    """Start all processes; on leaving none of them nor of their children is left."""
    ranks: list[_Rank] = []
    try:
        for number in range(job["count"]):
            ranks.append(_start(folder, number, job))
        yield ranks
    finally:
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.process.pid, signal.SIGKILL)
            rank.process.wait()
            rank.line.close()


def _start(folder: Path, number: int, job: dict[str, Any]) -> _Rank:
    """Start one process; it prints to this one's standard error."""
    ours, theirs = multiprocessing.Pipe()
    paths = [str(Path(path).absolute()) for path in sys.path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(job["threads"]),
    }
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the host's name resolves to
    command = [sys.executable, "-P", "-m", WORKER, str(folder), str(number)]
    process = subprocess.Popen(
        [*command, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,
        env=environment,
        start_new_session=True,
    )
    theirs.close()
    return _Rank(number=number, process=process, line=ours)


def _follow(ranks: Sequence[_Rank], progress: Progress) -> Outcome:
    """Pass progress on until all are done, and return what the first process says of it.

    Raises the clearest reason when one fails.
    """
    found: dict[str, Any] = {}
    working = {rank.line: rank for rank in ranks}
    failures: list[tuple[int, Exception]] = []
    deadline: float | None = None
    while working and (deadline is None or time.monotonic() < deadline):
        rest = None if deadline is None else max(0.0, deadline - time.monotonic())
        for line in wait(list(working), rest):
            assert isinstance(line, Connection)
            message = _message(working[line])
            if "step" in message:
                progress(*message["step"])
                continue
            if "outcome" in message:
                found = message["outcome"]
                continue
            if not message.get("done"):
                failures.append(_failure(working[line], message))
                deadline = deadline or time.monotonic() + GRACE
            del working[line]
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
    return Outcome(**found)


def _message(rank: _Rank) -> dict[str, Any]:
    """Return the next message; an empty one when the process has ended."""
    try:
        return processes.receive(rank.line)
    except (EOFError, OSError):
        return {}


def _failure(rank: _Rank, message: dict[str, Any]) -> tuple[int, Exception]:
    """Return why a process failed, and its place among reasons, the clearest first.

    What one process says after another has gone is only a consequence.
    """
    if "infeasible" in message:
        return 0, Infeasible(message["infeasible"])
    if "diverged" in message:
        return 0, Diverged(*message["diverged"])
    where = f"recovery training process {rank.number}"
    if "error" in message:
        return 2, Broken(f"{where} failed: {message['error']}")
    how = processes.ending(rank.process.wait())
    return 1, Broken(f"{where} {how} before it was done")


@torch.no_grad()
def _take_over(model: nn.Module, folder: Path) -> None:
    """Put what was learned into `model`, in place."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in load_file(folder / RESULT).items():
        own[name].copy_(tensor)
