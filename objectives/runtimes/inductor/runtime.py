"""torch.compile ahead of time: the model as a shared library of C++ kernels in one package."""

import dataclasses
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from objectives.exporting import CODED, cuda, quiet, spelled, torch_modules
from objectives.host import dot_products
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.runtimes.inductor import cuda as on_cuda
from objectives.runtimes.inductor import package
from objectives.target import Target
from spaces import Encoding, Infeasible, Scope, Task, first_line, untraced
from spaces.modules import call, flatten, plain, unflatten

with quiet(FutureWarning, DeprecationWarning, UserWarning):
    # its modules call what PyTorch deprecates
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

_PACKAGE = "model.pt2"
_SLOW_AFTER_AVX2 = (torch.ops.aten.gelu.default, torch.ops.aten.tanh.default)
"""Functions that oneDNN computes by table at the end of a packed layer, element by element."""
_INTEGER_CALL = re.compile(r"_q(conv|linear)\w*_pointwise")
"""oneDNN's integer layers, as the generated code calls them."""
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
"""What torch.export and Inductor raise on models that they cannot take."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inductor(Runtime):
    """PyTorch's ahead-of-time compiler; the artifact is `model.pt2`, for this kind of CPU.

    8-bit weights with 8-bit activations are oneDNN's integer layers, with one range per tensor of
    activations that is estimated from the calibration inputs.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = ("torchao",)

    def refuses(self, encoding: Encoding, target: Target, kinds: frozenset[str]) -> str | None:
        """Return why an encoding has no real kernels here."""
        if target.device == "cuda" and (reason := on_cuda.refuses(encoding, kinds)):
            return reason
        if _compiler() is None:
            return "The inductor runtime needs a C++ compiler: set CXX or install g++ or clang++."
        if target.device == "cuda":
            return None
        if not encoding.quantized:
            return torch_modules.lacks(encoding.dtype)
        bits = (encoding.weight_bits, encoding.activation_bits)
        if encoding.packed:
            return (
                "Inductor bakes weights into its package unpacked, so that "
                f"{spelled(encoding)} would save nothing."
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

    def export(self, export: Export) -> dict[str, Any]:
        """Trace, quantize if asked to, and compile into one package."""
        name = export.encoding.dtype
        gpu = export.target.device == "cuda"
        if gpu:
            model, inputs, notes = on_cuda.prepared(export)
        else:
            model, inputs = (
                torch_modules.converted(export.model, name),
                torch_modules.inputs_as(export.example, name),
            )
            notes = {}
        strided, structure = flatten(inputs)
        # the package reads its inputs by the strides of the example; `feed` hands contiguous ones
        tensors = [tensor.contiguous() for tensor in strided]
        with (
            torch_modules.threads(export.target.threads),
            quiet(FutureWarning, DeprecationWarning, UserWarning),
        ):
            torch_modules.rehearse(model, inputs)
            program = _traced(_Flat(model, structure), tensors)
            if export.encoding.quantized and not gpu:
                program = _traced(_quantized(program, export), tensors)
            _build(program, export)
        return {"dtype": name, **notes}

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Load the package; its loops have their number of threads built in, oneDNN's have not."""
        del task
        torch.set_num_threads(target.threads)
        if target.device == "cuda":
            function, dtype = (
                on_cuda.loaded(folder / _PACKAGE),
                torch_modules.dtype_of(notes["dtype"]),
            )
            return cuda.CudaProgram(signature, target, folder, function=function, dtype=dtype)
        return _Inductor(signature, target, folder, dtype=torch_modules.dtype_of(notes["dtype"]))


class _Inductor(Program):
    def __init__(
        self, signature: Signature, target: Target, folder: Path, *, dtype: torch.dtype
    ) -> None:
        super().__init__(signature, target, folder)
        self._dtype = dtype
        # the loader itself: a call of the package parses its description of the inputs each time
        self._loader = package.loader(folder / _PACKAGE)

    def feed(self, tensors: list[Tensor]) -> Any:
        """Return contiguous tensors in the type that the package was built for."""
        return [torch_modules.cast(tensor, self._dtype).contiguous() for tensor in tensors]

    def run(self, feed: Any) -> Any:
        """Run the package."""
        return self._loader.boxed_run(list(feed))  # it empties the list that it is given

    def read(self, raw: Any) -> list[Tensor]:
        """Return the outputs, cast back."""
        return [torch_modules.owned(tensor) for tensor in raw]


class _Flat(nn.Module):
    """A model that takes and returns tensors only, whatever classes its outputs have."""

    def __init__(self, model: nn.Module, structure: Any) -> None:
        super().__init__()
        self.model = model
        self.structure = structure

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(call(self.model, plain(unflatten(tensors, self.structure))))[0])


def _capability() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _compiler() -> str | None:
    """Return the first C++ compiler found: $CXX, g++, clang++."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _traced(model: nn.Module, tensors: list[Tensor]) -> ExportedProgram:
    """Return the model's graph; raises Infeasible, also for a model that is not changed at all."""
    try:
        with torch.no_grad():
            return torch.export.export(model, tuple(tensors), strict=False)
    except _FAILURES as error:
        reason = f"torch.export cannot trace the model: {untraced(error)}."
        raise Infeasible(reason, scope=Scope.RUNTIME) from error


def _quantized(program: ExportedProgram, export: Export) -> nn.Module:
    """Return the program with integer layers, whose ranges come from the calibration inputs."""
    if not export.calibration:
        raise Infeasible("8-bit activations need calibration inputs, and there are none.")
    config = get_default_x86_inductor_quantization_config(reduce_range=not dot_products())
    try:
        with torch.no_grad():
            observed = prepare_pt2e(program.module(), X86InductorQuantizer().set_global(config))
            for inputs in export.calibration:
                observed(*flatten(inputs)[0])
            integers: nn.Module = convert_pt2e(observed)
    except _FAILURES as error:
        raise Infeasible(f"torchao cannot quantize the model: {first_line(error)}.") from error
    return integers


def _build(program: ExportedProgram, export: Export) -> None:
    """Compile outside of the artifact's folder, then pack what a run needs into it."""
    module, example = program.module(), program.example_inputs
    assert isinstance(module, torch.fx.GraphModule)
    with tempfile.TemporaryDirectory(prefix="inductor-") as scratch, torch.no_grad():
        try:
            options = _options(program, export, scratch)
            files = package.compiled(module, example[0], options)
        except _FAILURES as error:
            raise Infeasible(f"Inductor cannot compile the model: {first_line(error)}.") from error
        integers = export.encoding.quantized and export.target.device == "cpu"
        if integers and not _INTEGER_CALL.search(_sources(Path(scratch))):
            raise Infeasible("Inductor found no layer of this model to compute in integers.")
        # the loader for GPUs finds its description by the name of a source; on CPUs none is needed
        gpu = export.target.device == "cuda"
        needed = [f for f in files if gpu or not str(f).endswith(".cpp")]
        package.write(export.folder / _PACKAGE, needed)


def _sources(folder: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.cpp"))


def _options(program: ExportedProgram, export: Export, scratch: str) -> dict[str, Any]:
    """Return Inductor's settings; those that this release does not know are left out."""
    if export.target.device == "cuda":
        return {"aot_inductor.package": True, "aot_inductor.output_path": scratch}
    wanted = {
        "freezing": export.encoding.quantized or _gains_by_packing(program),
        "cpp.cxx": (None, _compiler()),
        "cpp.threads": export.target.threads,
        "aot_inductor.package": True,
        "aot_inductor.output_path": scratch,
        # debugging information: half of a small model's package
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
    }
    known = package.settings()
    return {key: value for key, value in wanted.items() if key in known}


def _gains_by_packing(program: ExportedProgram) -> bool:
    """Whether to fold constants and pack weights for oneDNN, with what follows fused into layers.

    Without AVX512 its GELU takes four times as long as Inductor's own loop and its tanh ten
    times, which is more than packing gains.
    """
    targets = {node.target for node in program.graph.nodes}
    return _capability().startswith("AVX512") or not targets.intersection(_SLOW_AFTER_AVX2)
