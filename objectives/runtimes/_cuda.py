"""What the runtimes that call PyTorch share on GPUs: graphs, the device's clock, integer layers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives._target import Target
from objectives.placement._graph import Replayed
from objectives.runtimes._runtime import Program, Signature
from objectives.runtimes._stored import Rounded
from objectives.runtimes._torch import cast, owned

INTEGER_CAPABILITY = (8, 0)
"""The first GPUs on which PyTorch's int8 products are fast: Ampere."""
_MULTIPLE = 8
"""Inputs and outputs of an integer layer are a multiple of this, for the tensor cores."""
_ROWS = 32
"""Rows of an integer product at least; fewer are filled up with zeros."""


def lacks_cuda() -> str | None:
    """Return in one sentence why no GPU can be used, None if one can."""
    if torch.version.cuda is None:
        return f"The target asks for cuda, and PyTorch {torch.__version__} is built without it."
    if not torch.cuda.is_available():
        return "The target asks for cuda, and PyTorch finds no usable GPU on this machine."
    return None


def lacks_integers() -> str | None:
    """Return why 8-bit linear layers are not computed in integers on this GPU, None if they are."""
    if torch.cuda.get_device_capability() < INTEGER_CAPABILITY:
        return f"{torch.cuda.get_device_name()} has no fast 8-bit tensor cores."
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


class IntegerLinear(nn.Module):
    """A linear layer of 8-bit weights on a GPU; each row of its input is rounded at every call.

    Source: Dettmers et al. 2022, LLM.int8(), section 3 (vector-wise quantization).
    """

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Rounded, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("values", weight.values.contiguous().t())
        self.register_buffer("scale", weight.scale.float())
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs in the type of the inputs."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        largest = rows.abs().amax(1, keepdim=True).float()
        scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
        integers = (rows / scale).round().to(torch.int8)
        missing = max(0, _ROWS - rows.shape[0])
        sums = torch._int_mm(F.pad(integers, (0, 0, 0, missing)), self.values)[: rows.shape[0]]
        outputs = sums.float() * scale * self.scale
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.to(inputs.dtype).reshape(*inputs.shape[:-1], -1)


def fits(layer: nn.Linear) -> bool:
    """Whether tensor cores take the sizes of a linear layer."""
    return layer.in_features % _MULTIPLE == 0 and layer.out_features % _MULTIPLE == 0


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
