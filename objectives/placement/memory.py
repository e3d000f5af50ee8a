"""Memory of this process: current and peak bytes."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

_STATUS = Path("/proc/self/status")
_MAPS = Path("/proc/self/smaps")
_CLEAR = Path("/proc/self/clear_refs")


def trim() -> None:
    """Return unused memory to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def private_bytes() -> int:
    """Return the resident bytes of this process, on Linux without those backed by files."""
    return _field("RssAnon") if _STATUS.is_file() else int(psutil.Process().memory_info().rss)


def peak_bytes(work: Callable[[], object], folder: Path) -> int:
    """Do `work` and return the peak of private bytes, plus resident pages of files in `folder`.

    Pages of program libraries are left out: they are loaded at their first call, are shared by all
    processes and would outweigh a small model. If the system has no peak counter, the result is the
    bytes after `work`.
    """
    if _CLEAR.is_file():
        _CLEAR.write_text("5")  # resets the peak counter
    work()
    if not _STATUS.is_file():
        return private_bytes()
    return _field("VmHWM") - _field("RssFile") - _field("RssShmem") + _mapped(folder)


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def _mapped(folder: Path) -> int:
    """Return the resident file-backed bytes of mappings of files in `folder`."""
    total, inside = 0, False
    for line in _MAPS.read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0] and not head[0].endswith(":"):
            inside = len(head) == 6 and Path(head[5]).is_relative_to(folder.resolve())
        elif inside and head[0] in ("Rss:", "Anonymous:"):
            total += 1024 * int(head[1]) * (1 if head[0] == "Rss:" else -1)
    return total
