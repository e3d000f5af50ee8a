"""The exclusive lane: one latency measurement at a time on a host, on its own cores."""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the host's lane; other measurements, of any run of this user, wait meanwhile."""
    path = Path(tempfile.gettempdir()) / f"paretune-lane-{os.getuid()}.lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def pin(threads: int) -> tuple[int, ...]:
    """Keep this process on the `threads` least busy of its cores and return them.

    Called before a runtime starts its threads, which inherit the cores. Does nothing, and
    returns (), where the system cannot pin or has fewer cores than threads.
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


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends, so that nothing is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
