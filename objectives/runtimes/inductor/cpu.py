"""Ahead-of-time compilation for CPUs: C++ loops and oneDNN layers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from objectives.execution import Operation
from objectives.exporting import describe_weights, quiet, torch_modules
from objectives.host import has_dot_products
from objectives.kernels import kernels_of
from objectives.runtime import Export, Program, Signature
from objectives.runtimes.inductor import package, products
from objectives.runtimes.inductor.compiler import Compiler, cxx
from objectives.target import Target
from spaces import Encoding, Infeasible, first_line
from spaces.modules import flatten

with quiet(FutureWarning, DeprecationWarning, UserWarning):
    # on import they log missing CUDA libraries and call deprecated functions of PyTorch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

_SLOW_WHEN_FUSED = (torch.ops.aten.gelu.default, torch.ops.aten.tanh.default)
"""Functions that oneDNN, fusing them into a packed layer, looks up element by element on AVX2."""
_INTEGER_CALL = re.compile(r"_q(conv|linear)\w*_pointwise")
"""oneDNN's integer layers, as the generated code calls them."""


class Cpu(Compiler):
    """Compiler for CPUs: torchao's quantizer inserts integer layers into the traced model."""

    device = "cpu"

    def lacks_kernels(self, encoding: Encoding, kinds: frozenset[str]) -> str | None:
        """Reason why an encoding has no real kernels on this CPU; None if it has."""
        del kinds
        if not encoding.quantized:
            return kernels_of(self.device).lacks(encoding.dtype)
        bits = (encoding.weight_bits, encoding.activation_bits)
        if encoding.packed:
            return (
                "Inductor bakes weights into its package unpacked, so that "
                f"{describe_weights(encoding)} would save nothing."
            )
        if encoding.calibration != "min-max":
            return f"Inductor's quantizer calibrates by min-max, not by {encoding.calibration}."
        if bits != (8, 8):
            return (
                f"Inductor has no fast CPU kernel for {bits[0]}-bit weights "
                f"with {bits[1]}-bit activations."
            )
        if encoding.dtype != "float32":
            return (
                f"Inductor's 8-bit layers are built between float32 layers, not {encoding.dtype}."
            )
        if not _capability().startswith("AVX"):
            return "Inductor's 8-bit layers need an x86 processor with AVX2."
        return None

    def prepared(
        self, export: Export, *, channels_last: bool
    ) -> tuple[nn.Module, Any, dict[str, Any]]:
        """Return model and inputs in the encoding's type; oneDNN chooses its own layouts."""
        del channels_last
        dtype = export.encoding.dtype
        model = torch_modules.converted(export.model, dtype)
        return model, torch_modules.inputs_as(export.example, dtype), {}

    def quantized(self, program: ExportedProgram, export: Export) -> nn.Module | None:
        """Return the program with integer layers, their ranges estimated from calibration inputs.

        Returns None if the encoding is not quantized. Raises Infeasible without calibration inputs,
        or if torchao cannot quantize the model.
        """
        if not export.encoding.quantized:
            return None
        if not export.calibration:
            raise Infeasible("8-bit activations need calibration inputs, and there are none.")
        config = get_default_x86_inductor_quantization_config(reduce_range=not has_dot_products())
        try:
            with torch.no_grad():
                observed = prepare_pt2e(program.module(), X86InductorQuantizer().set_global(config))
                for inputs in export.calibration:
                    observed(*flatten(inputs)[0])
                integers: nn.Module = convert_pt2e(observed)
        except torch_modules.EXPORT_FAILURES as error:
            raise Infeasible(f"torchao cannot quantize the model: {first_line(error)}.") from error
        return integers

    def options(self, program: ExportedProgram, export: Export, scratch: str) -> dict[str, Any]:
        """Return Inductor's settings."""
        return {
            "freezing": export.encoding.quantized or _gains_by_packing(program),
            "cpp.cxx": (None, cxx()),
            "cpp.threads": export.target.threads,
            "aot_inductor.package": True,
            "aot_inductor.output_path": scratch,
            # debugging information would take half of a small model's package
            "aot_inductor.enable_line_tables": False,
            "aot_inductor.enable_frame_pointer": False,
        }

    def packed(self, files: Sequence[Any], export: Export, scratch: Path) -> list[Any]:
        """Return the generated files without sources, which the loader does not read.

        Raises Infeasible if the encoding is quantized and no layer computes in integers.
        """
        if export.encoding.quantized and not _INTEGER_CALL.search(_sources(scratch)):
            raise Infeasible("Inductor found no layer of this model to compute in integers.")
        return [file for file in files if not str(file).endswith(".cpp")]

    def executed(
        self, program: ExportedProgram, export: Export, scratch: Path
    ) -> list[dict[str, Any]] | None:
        """Return the products of the program by the calls of the generated code."""
        return products.executed(program, _sources(scratch), export.encoding.dtype)

    def load(
        self, file: Path, signature: Signature, target: Target, notes: dict[str, Any]
    ) -> Program:
        """Return a program that runs the package on the threads of the target."""
        return _PackageProgram(signature, target, file.parent, file=file, notes=notes)


class _PackageProgram(Program):
    def __init__(self, *args: Any, file: Path, notes: dict[str, Any]) -> None:
        super().__init__(*args)
        self._dtype = torch_modules.dtype_of(notes["dtype"])
        self._executed = notes.get("executed")
        # the loader is called directly: calls of the package parse its input specification
        self._loader = package.loader(file)

    def feed(self, tensors: list[Tensor]) -> Any:
        """Return contiguous tensors in the type that the package was compiled for."""
        return [torch_modules.cast(tensor, self._dtype).contiguous() for tensor in tensors]

    def run(self, feed: Any) -> Any:
        """Run the package."""
        return self._loader.boxed_run(list(feed))  # boxed_run empties its argument

    def read(self, raw: Any) -> list[Tensor]:
        """Copy the outputs to float32."""
        return [torch_modules.owned(tensor) for tensor in raw]

    def operations(self, feed: Any) -> tuple[Operation, ...] | None:
        """Return the products of the generated code; its library calls have no profile."""
        del feed
        return products.operations(self._executed)


def _capability() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _sources(folder: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.cpp"))


def _gains_by_packing(program: ExportedProgram) -> bool:
    """True if folding constants and packing weights for oneDNN saves time.

    Packed layers include the function that follows. Without AVX512, oneDNN's GELU then takes four
    times as long as Inductor's own loop and its tanh ten times, more than packing gains.
    """
    targets = {node.target for node in program.graph.nodes}
    return _capability().startswith("AVX512") or not targets.intersection(_SLOW_WHEN_FUSED)
