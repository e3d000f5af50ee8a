"""XLA runtime: convert a traced model to StableHLO, and compile that by PJRT at load."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from objectives.exporting import CODED, describe_weights, quiet, torch_modules
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.runtimes.xla.files import ANSWER, MODULE, TRACED, WEIGHTS
from objectives.target import Target
from spaces import Encoding, Infeasible, Scope, Task, first_line
from spaces.devices import device_of
from spaces.modules import flatten

for _library in ("jax", "torchax", "flatbuffers"):
    # Importing JAX takes over a second, so it is only looked up: the catalogue names the extra.
    if importlib.util.find_spec(_library) is None:
        raise ModuleNotFoundError(f"No module named {_library!r}", name=_library)

_CONVERTER = "objectives.runtimes.xla.conversion"
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest difference between the outputs of the module and of the model that it was made from, as
a share of their norm."""
_CONSTANT = 2**27
"""Bytes of weights up to which they are constants of the compiled program: XLA then lays them out
once, at load, which takes 13 s for 256 MiB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xla(Runtime):
    """XLA through JAX: the artifact is a StableHLO module with its weights beside it.

    torch.export traces the model, torchax converts the trace to JAX, `jax.export` writes it for
    CPUs, GPUs and TPUs, and PJRT compiles it for the processor at load. Weights are arguments of
    the module, in `weights.safetensors`, and become constants when it is compiled: a ResNet-20 took
    2.3 ms with constants and 4.1 ms with arguments, whose layout is changed at every run.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = ("jax", "jaxlib", "torchax")
    usual = False
    devices = frozenset({"cpu"})

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why XLA does not compute in an encoding on the target; None if it does."""
        del kinds
        if encoding.quantized or encoding.packed:
            return (
                f"The xla runtime has floating-point layers only, not {describe_weights(encoding)} "
                f"with {encoding.activation_bits}-bit activations."
            )
        if encoding.dtype not in _TOLERANCE:
            return f"The xla runtime computes in float32 and bfloat16, not in {encoding.dtype}."
        if encoding.dtype == "bfloat16" and not device_of(target.device).native_bfloat16():
            return "XLA multiplies bfloat16 in float32 on this CPU, after a conversion."
        return None

    def export(self, export: Export) -> dict[str, Any]:
        """Trace the model and have a process of its own convert it; return notes.

        Importing torchax renames a device type of PyTorch and turns fast paths off, and the threads
        of JAX survive no fork: neither may happen to the process that trains.
        """
        dtype = export.encoding.dtype
        model = torch_modules.converted(export.model, dtype)
        inputs = torch_modules.inputs_as(export.example, dtype)
        torch_modules.rehearse(model, inputs)
        tensors, structure = flatten(inputs)
        with tempfile.TemporaryDirectory(prefix="xla-") as scratch, quiet(FutureWarning):
            program = torch_modules.traced(torch_modules.TensorModule(model, structure), tensors)
            torch.export.save(program, Path(scratch, TRACED))
            answer = _convert(Path(scratch), export.folder, export.target.threads)
        if reason := answer.get("infeasible"):
            raise Infeasible(reason, scope=Scope.RUNTIME)
        if answer["error"] > _TOLERANCE[dtype]:
            raise Infeasible(
                "XLA's program does not compute what the model computes: its outputs differ by "
                f"{answer['error']:.0%} of their norm."
            )
        constant = (export.folder / WEIGHTS).stat().st_size <= _CONSTANT
        return {"dtype": dtype, "platforms": answer["platforms"], "constant_weights": constant}

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Compile the module for `target.threads` threads."""
        del task
        from objectives.runtimes.xla.program import PjrtProgram

        return PjrtProgram(signature, target, folder, constant=notes["constant_weights"])

    def standalone(self, signature: Signature, target: Target, notes: Mapping[str, Any]) -> str:
        """Return lines that compile and run the module by JAX."""
        zeros = [
            f"numpy.zeros({shape}, {_stored(kind, notes)!r})"
            for shape, kind in zip(signature.input_shapes, signature.input_types, strict=True)
        ]
        call = "lambda *inputs: module.call(weights, *inputs)"
        if not notes["constant_weights"]:
            call = "functools.partial(module.call, weights)"
        return "\n".join(
            [
                "import functools, os",
                f'os.environ["NPROC"] = "{target.threads}"  # threads of XLA on a CPU',
                "import jax, jax.export, numpy, safetensors.numpy",
                f'weights = safetensors.numpy.load_file("{WEIGHTS}")',
                f'module = jax.export.deserialize(bytearray(open("{MODULE}", "rb").read()))',
                f"outputs = jax.jit({call})({', '.join(zeros)})",
            ]
        )


def _stored(kind: str, notes: Mapping[str, Any]) -> str:
    """Return the type in which the module takes an input of a type of the user's model."""
    if kind.startswith(("float", "bfloat")):
        return str(notes["dtype"])
    return "int32" if kind == "int64" else kind


def _convert(scratch: Path, folder: Path, threads: int) -> dict[str, Any]:
    """Convert the traced program in `scratch` in a process of its own; return its answer."""
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
    command = [sys.executable, "-P", "-m", _CONVERTER, str(scratch), str(folder)]
    environment = {**os.environ, "PYTHONPATH": paths, "NPROC": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        said = first_line(RuntimeError(lines[-1]))
        raise Infeasible(f"The conversion to StableHLO failed: {said}.")
    answer: dict[str, Any] = json.loads((scratch / ANSWER).read_text(encoding="utf-8"))
    return answer
