"""The processor: its name, its cores, and the instructions on which kernels depend."""

import os
import platform
from pathlib import Path


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Name of the processor, as the system gives it."""
    return _listed("model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """Names of the instruction sets that Linux lists; empty where they cannot be known."""
    return frozenset((_listed("flags") or _listed("Features")).split())


def _listed(key: str) -> str:
    """Return what Linux says of the first core under a key; empty where it says nothing."""
    source = Path("/proc/cpuinfo")
    if source.is_file():
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def dot_products() -> bool:
    """Whether 8-bit products are summed in 32 bits by one instruction (VNNI, AMX, Arm dot product).

    Without it, x86 kernels add pairs of unsigned x signed products in 16 bits, which saturates.
    Where the flags cannot be read, x86 is taken to lack it: that costs one bit, never accuracy.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool(flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})
