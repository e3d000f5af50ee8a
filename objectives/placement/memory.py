"""How much memory a process holds, and at most held."""

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
    """Give memory that is not used any more back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def held() -> int:
    """Return the bytes of this process that no file on disk stands behind."""
    return _field("RssAnon") if _STATUS.is_file() else int(psutil.Process().memory_info().rss)


def peak(work: Callable[[], object], folder: Path) -> int:
    """Do `work`; return the most bytes held meanwhile, with resident pages of files in `folder`.

    Pages of program libraries are left out: they come as they are first called, are shared
    with all processes, and would drown a small model. Where the system counts no peak it is
    what is held now.
    """
    if _CLEAR.is_file():
        _CLEAR.write_text("5")  # the count of the most bytes begins anew
    work()
    if not _STATUS.is_file():
        return held()
    return _field("VmHWM") - _field("RssFile") - _field("RssShmem") + _mapped(folder)


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def _mapped(folder: Path) -> int:
    """Return the resident bytes of the files in `folder` that are mapped into this process."""
    total, inside = 0, False
    for line in _MAPS.read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0] and not head[0].endswith(":"):
            inside = len(head) == 6 and Path(head[5]).is_relative_to(folder.resolve())
        elif inside and head[0] in ("Rss:", "Anonymous:"):
            total += 1024 * int(head[1]) * (1 if head[0] == "Rss:" else -1)
    return total
