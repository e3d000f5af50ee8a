"""Record a function of fixed-shape tensors as a CUDA graph and replay it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[[Sequence[Tensor]], list[Tensor]]

WARM_UP = 3
"""Runs before recording, in which libraries choose kernels and allocate workspaces."""


RECORDED = "CUDA graph"
"""`Replayed.execution` of a recorded function."""


class Replayed:
    """A function whose kernels, collectives included, are launched as one CUDA graph.

    On a CPU, or if the function cannot be recorded, it is called directly.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self.execution = ""
        """RECORDED, or the reason why there is no graph; empty on a CPU."""

    def record(self, tensors: Sequence[Tensor]) -> None:
        """Record the function at these shapes; all processes of a collective must do so."""
        if self._device.type != "cuda":
            return
        self._inputs = [t.clone() for t in tensors]
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(WARM_UP):
                self._function(self._inputs)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self._index()]
        generator_state = generator.clone_state()
        try:
            # thread_local: NCCL's watchdog thread queries events during the recording
            recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
            with torch.inference_mode(), recording:
                self._outputs = self._function(self._inputs)
        except RuntimeError as error:
            # its state would stay bound to the graph, and drawing outside of the graph would fail
            generator.graphsafe_set_state(generator_state)
            self.execution = f"no CUDA graph: {(str(error).splitlines() or ['?'])[0][:120]}"
            return
        self._graph, self.execution = graph, RECORDED

    def _index(self) -> int:
        index = self._device.index
        return torch.cuda.current_device() if index is None else index

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs; the next call overwrites those of a graph."""
        if self._graph is None:
            return self.launched(tensors)
        for recorded, tensor in zip(self._inputs, tensors, strict=True):
            recorded.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def launched(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of a direct call, also if there is a graph."""
        with torch.inference_mode():
            return self._function(tensors)
