"""Helpers that run modules in PyTorch: types, threads, trial runs, a program that calls one."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from objectives.execution import Operation
from objectives.exporting import torch_profile
from objectives.runtime import Program, Signature
from objectives.target import Target
from spaces import Infeasible, Precision, Scope, first_line, untraced
from spaces.devices import HOST
from spaces.modules import call, flatten, plain, transform, unflatten

EXPORT_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
"""Errors of torch.export and of what compiles its programs, on models that they cannot process."""


def dtype_of(name: Precision) -> torch.dtype:
    """Return the torch dtype of a precision, in which everything but the products is computed."""
    return {
        "float32": torch.float32,
        "tf32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float8": torch.bfloat16,
    }[name]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def converted(model: nn.Module, name: Precision) -> nn.Module:
    """Return a copy of `model` for inference, with its floating-point tensors in one type."""
    return copy.deepcopy(model).eval().requires_grad_(False).to(dtype_of(name))


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a floating-point tensor in `dtype`, any other tensor unchanged."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def laid_out(tensor: Tensor, *, channels_last: bool) -> Tensor:
    """Return a contiguous tensor; an image batch with its channels innermost if asked for."""
    if channels_last and tensor.dim() == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def inputs_as(inputs: Any, name: Precision) -> Any:
    """Return inputs with their floating-point tensors in one type."""
    return transform(inputs, lambda tensor: cast(tensor, dtype_of(name)))


def as_function(model: nn.Module, structure: Any) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return `model` as a function of its flat input tensors; `structure` is that of `flatten`."""

    def function(tensors: Sequence[Tensor]) -> list[Tensor]:
        return flatten(call(model, plain(unflatten(list(tensors), structure))))[0]

    return function


class TensorModule(nn.Module):
    """A model that takes its flat input tensors and returns a tuple of tensors.

    torch.export needs it: other classes in inputs and outputs would have to be registered.
    """

    def __init__(self, model: nn.Module, structure: Any) -> None:
        super().__init__()
        self.model = model
        self.structure = structure

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(call(self.model, plain(unflatten(tensors, self.structure))))[0])


def rehearse(model: nn.Module, inputs: Any) -> None:
    """Run `model` once; raises Infeasible if it fails or an output is not finite."""
    try:
        with torch.inference_mode():
            outputs, _ = flatten(call(model, inputs))
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise Infeasible(
            f"The model does not run at this encoding: {first_line(error)}."
        ) from error
    if not all(bool(t.isfinite().all()) for t in outputs if t.is_floating_point()):
        raise Infeasible("The model's outputs at this encoding are not finite.")


def traced(model: nn.Module, tensors: Sequence[Tensor]) -> ExportedProgram:
    """Trace a model; raises Infeasible, for all points of a runtime, if torch.export fails."""
    try:
        with torch.no_grad():
            return torch.export.export(model, tuple(tensors), strict=False)
    except EXPORT_FAILURES as error:
        reason = f"torch.export cannot trace the model: {untraced(error)}."
        raise Infeasible(reason, scope=Scope.RUNTIME) from error


def rows_of(inputs: Tensor) -> Tensor:
    """Return the input (..., inputs) of a linear layer as contiguous rows (rows, inputs)."""
    return inputs.reshape(-1, inputs.shape[-1]).contiguous()


def owned(tensor: Tensor) -> Tensor:
    """Return a contiguous float32 (or integer) copy that shares no memory with `tensor`."""
    return cast(tensor.detach(), torch.float32).clone(memory_format=torch.contiguous_format)


class ModuleProgram(Program):
    """Program that calls a module in inference mode."""

    def __init__(
        self,
        signature: Signature,
        target: Target,
        folder: Path,
        *,
        model: nn.Module,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(signature, target, folder)
        self._model = model
        self._dtype = dtype
        self._device = next((p.device for p in model.parameters()), HOST)

    def feed(self, tensors: list[Tensor]) -> Any:
        """Convert the inputs to the structure, floating-point type and device of the model."""
        cast_tensors = [cast(tensor, self._dtype).to(self._device) for tensor in tensors]
        return plain(unflatten(cast_tensors, self.signature.inputs))

    def run(self, feed: Any) -> Any:
        """Call the model."""
        with torch.inference_mode():
            return call(self._model, feed)

    def read(self, raw: Any) -> list[Tensor]:
        """Copy the outputs to the CPU in float32."""
        return [owned(tensor).cpu() for tensor in flatten(raw)[0]]

    def operations(self, feed: Any) -> tuple[Operation, ...] | None:
        """Call the model under PyTorch's profiler."""
        return torch_profile.operations(
            functools.partial(self.run, feed), self._model, self._device
        )
