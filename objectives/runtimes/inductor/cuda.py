"""Ahead-of-time compilation for CUDA GPUs: Triton kernels and tensor-core libraries."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from objectives.exporting import (
    AcceleratorProgram,
    describe_weights,
    refuses_calibration,
    torch_modules,
)
from objectives.kernels import (
    eight_bits,
    kernels_of,
    multiplies_in_8_bits,
    tensor_cores,
    with_eight_bits,
)
from objectives.runtime import Export, Program, Signature
from objectives.runtimes.inductor import package
from objectives.runtimes.inductor.compiler import Compiler
from objectives.target import Target
from spaces import Encoding
from spaces.devices import device_of
from spaces.modules import transform


class Cuda(Compiler):
    """Compiler for GPUs: 8-bit layers are those of eager PyTorch, inserted before tracing."""

    device = "cuda"
    layouts = (True, False)

    def lacks_kernels(self, encoding: Encoding, kinds: frozenset[str]) -> str | None:
        """Reason why an encoding has no real kernels on this GPU; None if it has."""
        if reason := _lacks_triton():
            return reason
        if encoding.dtype == "float8":
            if encoding.quantized:
                return "A layer multiplies in float8 or by integers, and both were asked for."
            if "Linear" not in kinds:
                return "Inductor's float8 layers are linear ones, and this model has none."
            return tensor_cores.lacks_float8()
        if not encoding.quantized:
            return kernels_of(self.device).lacks(encoding.dtype)
        bits = (encoding.weight_bits, encoding.activation_bits)
        if encoding.packed or bits != (8, 8):
            return (
                f"Inductor has no kernel for {describe_weights(encoding)} "
                f"with {bits[1]}-bit activations on GPUs."
            )
        if "Linear" not in kinds:
            return "Inductor's 8-bit layers on GPUs are linear ones, and this model has none."
        if reason := refuses_calibration(encoding, "on GPUs Inductor finds"):
            return reason
        return tensor_cores.lacks_integers()

    def prepared(
        self, export: Export, *, channels_last: bool
    ) -> tuple[nn.Module, Any, dict[str, Any]]:
        """Return model and inputs on the GPU, with 8-bit layers if the encoding asks for them."""
        dtype = export.encoding.dtype
        model = torch_modules.converted(export.model, dtype).cuda()
        inputs = transform(torch_modules.inputs_as(export.example, dtype), lambda t: t.cuda())
        notes: dict[str, Any] = {}
        if multiplies_in_8_bits(export.encoding):
            layers, notes = eight_bits(model, inputs, export.encoding, export.target)
            model = with_eight_bits(model, layers, export.target).cuda()
        if channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model, inputs, notes

    def options(self, program: ExportedProgram, export: Export, scratch: str) -> dict[str, Any]:
        """Return Inductor's settings."""
        del program, export
        return {
            "aot_inductor.package": True,
            "aot_inductor.output_path": scratch,
            # the wrapper launches kernels, and runs once only where a graph is recorded
            "aot_inductor.compile_wrapper_opt_level": "O0",
        }

    @contextlib.contextmanager
    def circumstances(self, encoding: Encoding) -> Iterator[None]:
        """Compile without tests of the processor, for which no loop is compiled.

        In it float32 products are rounded if the encoding asks for that: kernels depend on it.
        """
        rounding = encoding.dtype == "tf32"
        with (
            package.without_vector_tests(),
            device_of(self.device).tf32() if rounding else contextlib.nullcontext(),
        ):
            yield

    def packed(self, files: Sequence[Any], export: Export, scratch: Path) -> list[Any]:
        """Return all files: the loader finds the package's metadata by the name of a source."""
        del export, scratch
        return list(files)

    def load(
        self, file: Path, signature: Signature, target: Target, notes: dict[str, Any]
    ) -> Program:
        """Return a program on the current GPU."""
        return AcceleratorProgram(
            signature,
            target,
            file.parent,
            function=_function(file),
            precision=notes["dtype"],
            channels_last=notes["channels_last"],
        )


def _lacks_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Inductor compiles for GPUs through Triton, which is not installed."
    if torch.cuda.get_device_capability() < (7, 0):
        return "Inductor compiles through Triton, which needs a GPU of compute capability 7.0."
    return None


def _function(file: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return a package as a function of tensors on the current GPU."""
    index = torch.cuda.current_device()
    # single_threaded: by PyTorch's documentation, other modes conflict with CUDA graphs
    loader = package.loader(file, single_threaded=True, device_index=index)

    def function(tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(loader.boxed_run(list(tensors)))  # boxed_run empties its argument

    return function
