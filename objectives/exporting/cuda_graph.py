"""Functions of tensors of fixed shapes, recorded once on a GPU and then replayed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[[Sequence[Tensor]], list[Tensor]]

WARM_UP = 3
"""Runs before recording: libraries choose kernels and make their workspaces in the first ones."""


RECORDED = "CUDA graph"
"""What is said of a function that was recorded."""


class Replayed:
    """A function whose kernels, collectives included, are launched as one CUDA graph.

    On a CPU, or where the function cannot be recorded, it is called as it is.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self.said = ""
        """How it is executed, in words; empty on a CPU."""

    def record(self, tensors: Sequence[Tensor]) -> None:
        """Record the function at these shapes; every process of a collective must do so."""
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
        spare = generator.clone_state()
        try:
            # Only this thread's calls count: NCCL's watchdog asks for events meanwhile.
            recording = torch.cuda.graph(graph, capture_error_mode="thread_local")
            with torch.inference_mode(), recording:
                self._outputs = self._function(self._inputs)
        except RuntimeError as error:
            # it would go on to count for the graph, and so refuse to draw anything outside of it
            generator.graphsafe_set_state(spare)
            self.said = f"no CUDA graph: {(str(error).splitlines() or ['?'])[0][:120]}"
            return
        self._graph, self.said = graph, RECORDED

    def _index(self) -> int:
        index = self._device.index
        return torch.cuda.current_device() if index is None else index

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs; those of a graph are overwritten by the next call."""
        if self._graph is None:
            with torch.inference_mode():
                return self._function(tensors)
        for own, given in zip(self._inputs, tensors, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs
