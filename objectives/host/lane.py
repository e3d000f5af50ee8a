"""Exclusive lane: one timed measurement at a time on a host, with other trials paused."""

import contextlib
import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from spaces.devices import device_of


@contextlib.contextmanager
def exclusive(device: str = "cpu") -> Iterator[None]:
    """Hold the lane of a device type; measurements of all runs of this user wait for it.

    On a CPU all other trials on the host are paused too, whichever cores they use: cores share
    caches, memory and a clock, so training on one slows the others. An accelerator belongs to one
    trial; its lane is that of the accelerators that are visible to the process.
    """
    with _lock(device) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        paused = [] if device_of(device).accelerator else _pause()
        try:
            yield
        finally:
            for group in paused:
                _signal(group, signal.SIGCONT)
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def enrolled() -> Iterator[None]:
    """Let other measurements pause the group of this process, which must be its leader."""
    entry = _folder() / f"{os.getpgrp()}"
    entry.write_text(repr(psutil.Process().create_time()))
    try:
        yield
    finally:
        entry.unlink(missing_ok=True)


def revive(group: int) -> None:
    """Continue a paused process group whose pausing process ended before it could do so.

    Does nothing while a measurement holds the lane. Called by the process that waits for the group.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(group).status() != psutil.STATUS_STOPPED:
            return
        with _lock() as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _signal(group, signal.SIGCONT)
            fcntl.flock(file, fcntl.LOCK_UN)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"paretune-lane-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _lock(device: str = "cpu") -> Iterator[int]:
    variable = device_of(device).visible
    visible = os.environ.get(variable, "all") if variable else ""
    path = _folder() / f"{device}{visible}.lock".replace("/", "_")
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def _pause() -> list[int]:
    """Stop the process groups of all other enrolled trials and return them."""
    paused = []
    for entry in _folder().iterdir():
        if entry.suffix == ".lock" or int(entry.name) == os.getpgrp():
            continue
        if not _alive(entry):
            entry.unlink(missing_ok=True)
        elif _signal(int(entry.name), signal.SIGSTOP):
            paused.append(int(entry.name))
    return paused


def _alive(entry: Path) -> bool:
    """True if the process that wrote an entry still runs: process IDs are reused."""
    try:
        return repr(psutil.Process(int(entry.name)).create_time()) == entry.read_text()
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def _signal(group: int, number: signal.Signals) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def pin(threads: int) -> tuple[int, ...]:
    """Pin this process to the `threads` least busy of its cores and return them.

    Called before a runtime starts its threads, which inherit the affinity. Does nothing and returns
    () if the system cannot pin or this process has fewer cores than threads.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        return ()
    busy = psutil.cpu_percent(interval=0.05, percpu=True)
    chosen = tuple(sorted(cores, key=lambda c: busy[c] if c < len(busy) else 0.0)[:threads])
    os.sched_setaffinity(0, chosen)
    return chosen


def others(interval: float = 0.1) -> float:
    """Return the load (0..1) of this process's cores by other processes over `interval` seconds.

    This process sleeps meanwhile. Called with the lane held, so that paused trials do not count.
    """
    busy = psutil.cpu_percent(interval=interval, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        busy = [busy[core] for core in os.sched_getaffinity(0) if core < len(busy)] or busy
    return float(sum(busy) / len(busy) / 100)
