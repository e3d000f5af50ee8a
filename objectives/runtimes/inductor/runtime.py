"""Inductor runtime: compile models ahead of time to one package, and load it."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from objectives.exporting import CODED, quiet, torch_modules
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.runtimes.inductor import package
from objectives.runtimes.inductor.compiler import Compiler, cxx
from objectives.runtimes.inductor.cpu import Cpu
from objectives.runtimes.inductor.cuda import Cuda
from objectives.target import Target
from spaces import Encoding, Infeasible, Task, first_line
from spaces.modules import flatten

_PACKAGE = "model.pt2"
_ERROR = 0.25
"""Largest difference between a package's outputs and its model's, as a share of their norm. It
leaves room for rounding in deep networks of half types; unrelated outputs differ by more than 1."""
_COMPILERS: dict[str, Compiler] = {compiler.device: compiler for compiler in (Cpu(), Cuda())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inductor(Runtime):
    """PyTorch's ahead-of-time compiler; the artifact is `model.pt2`, for this type of processor.

    On CPUs, 8-bit weights with 8-bit activations become oneDNN's integer layers, with one range
    per activation tensor that is estimated from the calibration inputs.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = ("torchao",)

    devices = frozenset(_COMPILERS)

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why an encoding has no real kernels on the target's device; None if it has."""
        if cxx() is None:
            return "The inductor runtime needs a C++ compiler: set CXX or install g++ or clang++."
        return _COMPILERS[target.device].lacks_kernels(encoding, kinds)

    def export(self, export: Export) -> dict[str, Any]:
        """Trace the model, quantize it if the encoding asks for that, and compile one package."""
        compiler = _COMPILERS[export.target.device]
        with (
            torch_modules.threads(export.target.threads),
            quiet(FutureWarning, DeprecationWarning, UserWarning),
        ):
            for channels_last in compiler.layouts:
                notes, error = _exported(export, compiler, channels_last=channels_last)
                if error <= _ERROR:
                    return notes
        raise Infeasible(
            "Inductor's package does not compute what the model computes: its outputs differ by "
            f"{error:.0%} of their norm."
        )

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Load the package; its loops have a fixed number of threads, oneDNN's follow PyTorch's."""
        del task
        torch.set_num_threads(target.threads)
        compiler = _COMPILERS[target.device]
        return compiler.load(folder / _PACKAGE, signature, target, notes)

    def standalone(self, signature: Signature, target: Target, notes: Mapping[str, Any]) -> str:
        """Return lines that load the package by PyTorch's own loader."""
        inputs = [
            _zeros(shape, kind, notes, target.device)
            for shape, kind in zip(signature.input_shapes, signature.input_types, strict=True)
        ]
        rounding = ['torch.set_float32_matmul_precision("high")'] * (notes["dtype"] == "tf32")
        return "\n".join(
            [
                "import torch",
                *rounding,
                f"torch.set_num_threads({target.threads})",
                f'model = torch._inductor.aoti_load_package("{_PACKAGE}")',
                f"outputs = model({', '.join(inputs)})",
            ]
        )


def _zeros(shape: tuple[int, ...], kind: str, notes: Mapping[str, Any], device: str) -> str:
    """Return the expression of an input of zeros in the type and order that a package takes."""
    floats = str(torch_modules.dtype_of(notes["dtype"]))
    kind = floats if kind.startswith(("float", "bfloat")) else f"torch.{kind}"
    last = notes.get("channels_last") and len(shape) == 4 and kind == floats
    order = ".contiguous(memory_format=torch.channels_last)" if last else ""
    return f"torch.zeros({shape}, dtype={kind}, device={device!r}){order}"


def _exported(
    export: Export, compiler: Compiler, *, channels_last: bool
) -> tuple[dict[str, Any], float]:
    """Write a package; return manifest notes and its error, relative to the traced model."""
    model, inputs, notes = compiler.prepared(export, channels_last=channels_last)
    strided, structure = flatten(inputs)
    # a package expects the strides of the example, and `feed` lays inputs out likewise
    tensors = [torch_modules.laid_out(t, channels_last=channels_last) for t in strided]
    torch_modules.rehearse(model, inputs)
    traced = program = torch_modules.traced(torch_modules.TensorModule(model, structure), tensors)
    if (quantized := compiler.quantized(program, export)) is not None:
        program = torch_modules.traced(quantized, tensors)
    executed = _build(program, export, compiler, traced)
    about = {"dtype": export.encoding.dtype, "channels_last": channels_last, "executed": executed}
    error = package.error(export.folder / _PACKAGE, program.module(), tensors)
    return {**about, **notes}, error


def _build(
    program: ExportedProgram, export: Export, compiler: Compiler, traced: ExportedProgram
) -> list[dict[str, Any]] | None:
    """Compile in a temporary folder, then write the files that a run needs as a package.

    Returns the products that the generated files compute: see `Compiler.executed`.
    """
    module, example = program.module(), program.example_inputs
    assert isinstance(module, torch.fx.GraphModule)
    with tempfile.TemporaryDirectory(prefix="inductor-") as scratch, torch.no_grad():
        try:
            options = compiler.options(program, export, scratch)
            with compiler.circumstances(export.encoding):
                files = package.compiled(module, example[0], options)
        except torch_modules.EXPORT_FAILURES as error:
            raise Infeasible(f"Inductor cannot compile the model: {first_line(error)}.") from error
        needed = compiler.packed(files, export, Path(scratch))
        package.write(export.folder / _PACKAGE, needed)
        return compiler.executed(traced, export, Path(scratch))
