"""Messages between processes without pickle, and helpers to describe and kill processes.

A message is JSON, followed by tensors as safetensors. An error is sent as `{"error": one line}`,
the reason why a point is infeasible as `{"infeasible": one sentence}`.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import psutil
from safetensors.torch import load, save
from torch import Tensor

Message = dict[str, Any]


def send(
    connection: Connection, message: Mapping[str, Any], tensors: Sequence[Tensor] = ()
) -> None:
    """Send a message; raises OSError if the other end is closed, ValueError for NaN."""
    header = {**message, "tensors": len(tensors)}
    connection.send_bytes(json.dumps(header, allow_nan=False).encode())
    if tensors:
        connection.send_bytes(save({str(i): t.contiguous() for i, t in enumerate(tensors)}))


def receive(connection: Connection) -> Message:
    """Return the next message, without its tensors; raises EOFError or OSError at the end."""
    return receive_tensors(connection)[0]


def receive_tensors(connection: Connection) -> tuple[Message, list[Tensor]]:
    """Return the next message with its tensors; raises EOFError or OSError at the end."""
    message: Message = json.loads(connection.recv_bytes())
    count = message.pop("tensors")
    if not count:
        return message, []
    tensors = load(connection.recv_bytes())
    return message, [tensors[str(i)] for i in range(count)]


def ending(code: int | None) -> str:
    """Describe the end of a process: "was killed by signal 9", "ended with exit code 1"."""
    if code is None:
        return "closed its end without ending"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def family(pid: int | None) -> list[psutil.Process]:
    """Return a process and all its descendants, including those in other sessions."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(members: Sequence[psutil.Process]) -> None:
    """Kill processes, ignoring those that have ended."""
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def die_with_parent() -> None:
    """Have Linux kill this process when its parent ends; does nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
