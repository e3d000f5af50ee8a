"""NVIDIA GPUs through CUDA."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from spaces.devices import Device, Timer

BFLOAT16, FLOAT8 = (8, 0), (8, 9)
"""Lowest compute capability with tensor cores for the type: Ampere; Ada, then Hopper."""


class Cuda(Device):
    """A GPU that this process sees."""

    accelerator = "GPU"
    backend = "nccl"
    visible = "CUDA_VISIBLE_DEVICES"
    spread = 0.005
    shortest = 3e-5
    step_flops = 1e13

    def lacks(self) -> str | None:
        """Return the reason why no GPU can be used, None if one can."""
        if torch.version.cuda is None:
            return f"The target asks for cuda, and PyTorch {torch.__version__} is built without it."
        if not torch.cuda.is_available():
            return "The target asks for cuda, and PyTorch finds no usable GPU on this machine."
        return None

    def count(self) -> int:
        """Return the number of GPUs that this process sees."""
        return torch.cuda.device_count()

    def product_names(self) -> list[str]:
        """Return the product name of each GPU."""
        return [torch.cuda.get_device_name(index) for index in range(self.count())]

    def conditions(self) -> dict[str, Any]:
        """Return the GPU's name, clock in MHz, utilization in percent and other processes.

        Values that the driver does not report are left out.
        """
        conditions: dict[str, Any] = {"gpu": torch.cuda.get_device_name()}
        try:
            conditions["clock_mhz"] = torch.cuda.clock_rate()
            conditions["utilization"] = torch.cuda.utilization()
            processes = torch.cuda.list_gpu_processes()
        except (RuntimeError, ModuleNotFoundError):
            return conditions
        conditions["other_processes"] = max(0, processes.count("process") - 1)
        return conditions

    def initialized(self) -> bool:
        """Return True if this process has a CUDA context, which a forked process cannot use."""
        return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]

    def select(self, index: int) -> torch.device:
        """Make GPU `index` the current one and return it."""
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device

    def synchronize(self) -> None:
        """Wait for all streams of the GPU."""
        torch.cuda.synchronize()

    def timer(self) -> Timer:
        """Return a timer by events in the current stream, which excludes the launch of kernels."""
        event: Any = torch.cuda.Event
        start, end = (event(enable_timing=True) for _ in range(2))

        def seconds(run: Callable[[], object]) -> float:
            start.record()
            run()
            end.record()
            end.synchronize()
            return 1e-3 * float(start.elapsed_time(end))

        return seconds

    def memory(self) -> tuple[int, int]:
        """Return the free and the total bytes of the GPU's memory."""
        free, total = torch.cuda.mem_get_info()
        return free, total

    def peak_memory(self, work: Callable[[], object]) -> int:
        """Run `work` and return the peak number of bytes that PyTorch allocated meanwhile."""
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()

    def empty_cache(self) -> None:
        """Return memory that PyTorch's allocator caches to the GPU."""
        torch.cuda.empty_cache()

    def exact(self) -> contextlib.AbstractContextManager[None]:
        """Return a context without TF32, which rounds the inputs of convolutions to 10 bits.

        That error exceeds the differences by which pruning and rounding are judged.
        """
        flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
            enabled=True, deterministic=True, allow_tf32=False
        )
        return flags

    @contextlib.contextmanager
    def tf32(self) -> Iterator[None]:
        """Let products of matrices, like those of convolutions, round float32 to TF32."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def trains_in(self, dtype: str) -> bool:
        """Return True if the GPU has tensor cores for `dtype`."""
        if dtype == "float8":
            return torch.cuda.is_available() and torch.cuda.get_device_capability() >= FLOAT8
        return dtype != "bfloat16" or torch.cuda.is_bf16_supported(including_emulation=False)

    def native_bfloat16(self) -> bool:
        """Return True if the GPU has tensor cores for bfloat16."""
        return torch.cuda.get_device_capability() >= BFLOAT16
