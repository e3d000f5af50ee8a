"""What the processor can do, as far as kernels depend on it."""

import platform
from pathlib import Path


def flags() -> frozenset[str]:
    """Return the instruction-set names that Linux lists; empty where it cannot be known."""
    source = Path("/proc/cpuinfo")
    if not source.is_file():
        return frozenset()
    for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def dot_products() -> bool:
    """Whether 8-bit products are summed in 32 bits by one instruction (VNNI, AMX, Arm dot product).

    Without it, x86 kernels add pairs of unsigned x signed products in 16 bits, which saturates.
    Where the flags cannot be read, x86 is taken to lack it: that costs one bit, never accuracy.
    """
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    return bool(flags() & {"avx512_vnni", "avx_vnni", "amx_int8"})
