"""Keep a run's cache within its limit: what was not used for longest is removed first."""

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

GIGABYTE = 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    """A stored result: a folder or a file beside its lock."""

    path: Path
    size: int
    used: float
    """Time of the last use, in seconds of the file system's clock."""


def used(path: Path) -> None:
    """Note that a stored result is used now."""
    os.utime(path)


def evict(folder: Path, limit: float) -> list[Path]:
    """Remove results from a cache until it has at most `limit` bytes; return their paths.

    A result that a trial reads or computes at this moment is locked and stays. A removed one
    disappears at once, and is computed again when it is next asked for. Data splits and times of
    layers are neither counted nor removed.
    """
    entries = sorted(_entries(folder), key=lambda entry: entry.used)
    total, removed = sum(entry.size for entry in entries), []
    for entry in entries:
        if total <= limit:
            break
        if _remove(entry.path):
            total -= entry.size
            removed.append(entry.path)
    return removed


def _entries(folder: Path) -> Iterator[_Entry]:
    for lock in folder.rglob("*.lock"):
        for path in (lock.with_suffix(""), lock.with_suffix(".pt")):
            with contextlib.suppress(FileNotFoundError):  # another worker removed it just now
                files = [path, *path.rglob("*")] if path.is_dir() else [path]
                size = sum(file.stat().st_size for file in files)
                yield _Entry(path=path, size=size, used=path.stat().st_mtime)


def _remove(path: Path) -> bool:
    """Remove a result unless a trial holds its lock; return True if it is gone."""
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        gone = path.with_name(f".{path.name}.{os.getpid()}.gone")
        with contextlib.suppress(FileNotFoundError):
            path.rename(gone)
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        return True
