"""Processor facts: name, usable cores, instruction sets."""

import os
import platform
from pathlib import Path


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name, as the system reports it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def flags() -> frozenset[str]:
    """Return the names of the instruction sets that Linux lists; empty on other systems."""
    return frozenset((_cpuinfo("flags") or _cpuinfo("Features")).split())


def _cpuinfo(key: str) -> str:
    """Return the first core's value of a key in /proc/cpuinfo; empty if there is none."""
    source = Path("/proc/cpuinfo")
    if source.is_file():
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def has_dot_products() -> bool:
    """True if one instruction sums 8-bit products in 32 bits (VNNI, AMX, Arm dot product).

    Without it, x86 kernels add pairs of unsigned x signed products in 16 bits, which saturates.
    If the flags cannot be read, x86 is assumed to lack it: weights then lose one bit, and no sum
    saturates.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool(flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})
