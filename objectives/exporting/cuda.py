"""What the runtimes that call PyTorch share on GPUs: graphs and the device's clock."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.exporting.cuda_graph import Replayed
from objectives.exporting.torch_modules import cast, owned
from objectives.runtime import Program, Signature
from objectives.target import Target


def lacks_cuda() -> str | None:
    """Return in one sentence why no GPU can be used, None if one can."""
    if torch.version.cuda is None:
        return f"The target asks for cuda, and PyTorch {torch.__version__} is built without it."
    if not torch.cuda.is_available():
        return "The target asks for cuda, and PyTorch finds no usable GPU on this machine."
    return None


class CudaProgram(Program):
    """A function of tensors on the first visible GPU, replayed as a CUDA graph where it can be."""

    def __init__(
        self,
        signature: Signature,
        target: Target,
        folder: Path,
        *,
        function: Callable[[Sequence[Tensor]], list[Tensor]],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(signature, target, folder)
        self._dtype = dtype
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._replayed = Replayed(function, self._device)
        self._recorded = False
        kind: Any = torch.cuda.Event
        self._events = [kind(enable_timing=True) for _ in range(2)]

    def feed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the inputs on the GPU; the first ones are also what the graph is recorded with."""
        feed = [cast(t, self._dtype).to(self._device).contiguous() for t in tensors]
        if not self._recorded:
            self._recorded = True
            self._replayed.record(feed)
        return feed

    def run(self, feed: list[Tensor]) -> list[Tensor]:
        """Start the computation; it is done when the GPU is."""
        return self._replayed(feed)

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs on the CPU."""
        return [owned(tensor).cpu() for tensor in raw]

    def execution(self) -> str:
        """Return whether it is a CUDA graph, and if not, why."""
        return self._replayed.said

    def seconds(self, feed: list[Tensor]) -> float:
        """Return the seconds of a run by the GPU's clock, with inputs and outputs in its memory."""
        start, end = self._events
        start.record()
        self.run(feed)
        end.record()
        end.synchronize()
        return 1e-3 * float(start.elapsed_time(end))


def conditions() -> dict[str, Any]:
    """Return what the first visible GPU is and does now: name, clocks, who else uses it.

    What the driver does not tell is left out.
    """
    found: dict[str, Any] = {"gpu": torch.cuda.get_device_name()}
    try:
        found["clock_mhz"] = torch.cuda.clock_rate()
        found["utilization"] = torch.cuda.utilization()
        processes = torch.cuda.list_gpu_processes()
    except (RuntimeError, ModuleNotFoundError):
        return found
    found["other_processes"] = max(0, processes.count("process") - 1)
    return found
