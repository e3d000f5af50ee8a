"""Start, follow and end the processes of a recovery training on several devices."""

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
"""Share of a device's memory for model, teacher and optimizer; activations need the rest."""
GRACE = 2.0
"""Seconds in which other processes may report why the first one failed."""


class Broken(RuntimeError):
    """Raised if one of the processes that train together fails; the message says which and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sharing:
    """The decision whether devices shard the model, and the estimate behind it."""

    sharded: bool
    needed: int
    """Bytes of weights, gradients, optimizer state and teacher."""
    room: int
    """Bytes that a device has available for them."""


def sharing(model: nn.Module, reference: nn.Module, recovery: Recovery, kind: str) -> Sharing:
    """Decide whether devices of `kind` hold the whole model, if it fits, or shards of it.

    A float32 weight takes 4 bytes, its gradient 4, momentum 4 or AdamW's moments 8. Raises
    Infeasible if the model must be sharded, but a constraint or the type of training forbids it.
    """
    weights = sum(p.numel() for p in model.parameters())
    with_teacher = recovery.teacher_weight > 0 or recovery.feature_weight > 0
    needed = weights * (4 + 4 + (4 if normalised(model) else 8))
    needed += 4 * sum(p.numel() for p in reference.parameters()) if with_teacher else 0
    device = device_of(kind)
    _, memory = device.memory()
    room = int(ROOM * (memory if device.accelerator else memory // recovery.devices))
    sharded = recovery.sharding == "shard" or (recovery.sharding == "auto" and needed > room)
    unshardable = any(not constraint.shardable for constraint in recovery.constraints)
    if sharded and (unshardable or recovery.dtype in ("float16", "float8")):
        obstacle = "masks and grids of weights" if unshardable else recovery.dtype
        raise Infeasible(
            f"{obstacle} cannot be kept to while the model is sharded over {recovery.devices} "
            f"devices (it needs {needed:,} bytes, a device has room for {room:,})"
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

    Each device has a process that reads the task's data itself and computes its part of every
    batch, on CPUs with its share of this process's threads. With the same batches the result equals
    that of one device up to rounding, if the task's loss is a mean over the samples. Raises
    Infeasible and Diverged like one device, and Broken if a process fails.
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
    """A process that trains, and the connection to it."""

    number: int
    process: "subprocess.Popen[bytes]"
    connection: Connection


@contextlib.contextmanager
def _started(folder: Path, job: dict[str, Any]) -> Iterator[list[_Rank]]:
    """Start all processes; on exit, kill them and their children."""
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
            rank.connection.close()


def _start(folder: Path, number: int, job: dict[str, Any]) -> _Rank:
    """Start one process, which prints to this process's standard error."""
    parent_end, child_end = multiprocessing.Pipe()
    paths = [str(Path(path).absolute()) for path in sys.path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(job["threads"]),
    }
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name may not resolve
    command = [sys.executable, "-P", "-m", WORKER, str(folder), str(number)]
    process = subprocess.Popen(
        [*command, str(child_end.fileno())],
        pass_fds=[child_end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,
        env=environment,
        start_new_session=True,
    )
    child_end.close()
    return _Rank(number=number, process=process, connection=parent_end)


def _follow(ranks: Sequence[_Rank], progress: Progress) -> Outcome:
    """Pass progress on until all processes are done; return the outcome that the first reports.

    If processes fail, raises the clearest of their reasons.
    """
    outcome: dict[str, Any] = {}
    working = {rank.connection: rank for rank in ranks}
    failures: list[tuple[int, Exception]] = []
    deadline: float | None = None
    while working and (deadline is None or time.monotonic() < deadline):
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        for connection in wait(list(working), timeout):
            assert isinstance(connection, Connection)
            message = _message(working[connection])
            if "step" in message:
                progress(*message["step"])
                continue
            if "outcome" in message:
                outcome = message["outcome"]
                continue
            if not message.get("done"):
                failures.append(_failure(working[connection], message))
                deadline = deadline or time.monotonic() + GRACE
            del working[connection]
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
    return Outcome(**outcome)


def _message(rank: _Rank) -> dict[str, Any]:
    """Return the next message; an empty one if the process has ended."""
    try:
        return processes.receive(rank.connection)
    except (EOFError, OSError):
        return {}


def _failure(rank: _Rank, message: dict[str, Any]) -> tuple[int, Exception]:
    """Return the error of a process with its priority; the lowest number is the clearest reason.

    An error that a process reports after another one has died is often only a consequence.
    """
    if "infeasible" in message:
        return 0, Infeasible(message["infeasible"])
    if "diverged" in message:
        step, loss, learning_rate = message["diverged"]
        return 0, Diverged(step, float(loss), learning_rate)
    where = f"recovery training process {rank.number}"
    if "error" in message:
        return 2, Broken(f"{where} failed: {message['error']}")
    how = processes.ending(rank.process.wait())
    return 1, Broken(f"{where} {how} before it was done")


@torch.no_grad()
def _take_over(model: nn.Module, folder: Path) -> None:
    """Copy the trained parameters and buffers into `model`, in place."""
    targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in load_file(folder / RESULT).items():
        targets[name].copy_(tensor)
