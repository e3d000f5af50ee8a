"""The CPU: cores of the host."""

import os
from collections.abc import Callable

import psutil
import torch

from spaces.devices import HOST, Device


class Cpu(Device):
    """Cores of the host; one device has as many as the target has threads."""

    accelerator = None
    backend = "gloo"
    spread = 0.01
    shortest = 5e-4
    step_flops = 1e11  # one to three seconds on one core

    def lacks(self) -> None:
        """Return None: every host has cores."""

    def count(self) -> int:
        """Return the number of cores that this process may use."""
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def initialized(self) -> bool:
        """Return False: a forked process can use the same cores."""
        return False

    def select(self, index: int) -> torch.device:
        """Return the host's device: the system assigns cores to processes."""
        del index
        return HOST

    def synchronize(self) -> None:
        """Do nothing: operations on the CPU are synchronous."""

    def memory(self) -> tuple[int, int]:
        """Return the bytes of the host's memory available without swapping, and the total."""
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    def peak_memory(self, work: Callable[[], object]) -> None:
        """Do nothing, since tensors lie in the memory of the process."""
        del work

    def trains_in(self, dtype: str) -> bool:
        """Return True if the processor has instructions for `dtype` that PyTorch's kernels use."""
        if dtype in ("float32", "float8"):
            return dtype == "float32"
        return _native(dtype)

    def native_bfloat16(self) -> bool:
        """Return True if the processor has AMX tiles or AVX-512 products of bfloat16."""
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_tile") or capabilities.get("avx512_bf16"))


def _native(dtype: str) -> bool:
    # torch.cpu.get_capabilities lists the processor's instructions, not those that oneDNN uses
    if dtype == "bfloat16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
