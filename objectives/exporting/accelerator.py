"""Program of a PyTorch function on an accelerator, replayed as a CUDA graph if possible."""

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from objectives.execution import Operation
from objectives.exporting import torch_profile
from objectives.exporting.cuda_graph import Function, Replayed
from objectives.exporting.torch_modules import cast, dtype_of, laid_out, owned
from objectives.runtime import Program, Signature
from objectives.target import Target
from spaces import Precision
from spaces.devices import Device, device_of


class AcceleratorProgram(Program):
    """Program that calls a function of tensors on the current accelerator.

    The function is replayed as a CUDA graph if it can be recorded, and timed by the device.
    """

    def __init__(
        self,
        signature: Signature,
        target: Target,
        folder: Path,
        *,
        function: Function,
        precision: Precision,
        channels_last: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        """`precision` is that of the encoding; `model` is the module that the function calls, if
        it calls one; `channels_last` tells that it takes images with their channels innermost."""
        super().__init__(signature, target, folder)
        self._model = model
        self._dtype = dtype_of(precision)
        self._channels_last = channels_last
        self._device = torch.device(target.device)
        if precision == "tf32":
            function = _rounded(function, device_of(target.device))
        self._replayed = Replayed(function, self._device)
        self._recorded = False
        self._timer = device_of(target.device).timer()

    def feed(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copy the inputs to the device; the first call also records the graph."""
        feed = [
            laid_out(cast(t, self._dtype).to(self._device), channels_last=self._channels_last)
            for t in tensors
        ]
        if not self._recorded:
            self._recorded = True
            self._replayed.record(feed)
        return feed

    def run(self, feed: list[Tensor]) -> list[Tensor]:
        """Start the computation, which may still run on the device on return."""
        return self._replayed(feed)

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Copy the outputs to the host."""
        return [owned(tensor).cpu() for tensor in raw]

    def operations(self, feed: list[Tensor]) -> tuple[Operation, ...] | None:
        """Launch the kernels one by one under PyTorch's profiler, without the graph."""
        run = functools.partial(self._replayed.launched, feed)
        return torch_profile.operations(run, self._model, self._device)

    def execution(self) -> str:
        """Return RECORDED or the reason why there is no graph; empty on devices other than GPUs."""
        return self._replayed.execution

    def seconds(self, feed: list[Tensor]) -> float:
        """Return the seconds of a run on the device, with inputs and outputs in its memory."""
        return self._timer(functools.partial(self.run, feed))


def _rounded(function: Function, device: Device) -> Function:
    """Return the function with its float32 products in TF32."""

    def rounded(tensors: Sequence[Tensor]) -> list[Tensor]:
        with device.tf32():
            return function(tensors)

    return rounded
