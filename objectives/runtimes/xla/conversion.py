"""Process that converts a traced program to a StableHLO module for all platforms of XLA.

It is started as a program of its own, with the folders that `main` takes.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
import torch
from safetensors.torch import save_file
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from objectives.runtimes.xla.files import ANSWER, MODULE, TRACED, WEIGHTS
from objectives.runtimes.xla.folding import Weights, folded, needed
from objectives.runtimes.xla.program import compiled, start, taken

PLATFORMS = ("cpu", "cuda", "tpu")
"""The one file runs on each of these."""


_PACKET, _OVERLOAD = type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor)


@contextlib.contextmanager
def _missing_overloads() -> Iterator[None]:
    """Let operators have overloads in the block that this PyTorch lacks; they are None.

    torchax 0.0.13 lists overloads for named dimensions, which PyTorch 2.13 has no more.
    """
    packet: Any = _PACKET
    original = packet.__getattr__

    def lenient(self: Any, name: str) -> Any:
        try:
            return original(self, name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return None

    packet.__getattr__ = lenient
    try:
        yield
    finally:
        packet.__getattr__ = original


with _missing_overloads():
    from torchax import decompositions
    from torchax.export import JaxInterpreter
    from torchax.ops import jaten, ops_registry

OPERATORS = ops_registry.all_aten_ops
assert jaten.all_ops is not None  # the import registers the operators


class Unconvertible(Exception):
    """The program cannot be converted; the message is the reason."""


def main(scratch: Path, folder: Path) -> None:
    """Write the module and its weights into `folder`, and the answer into `scratch`.

    `scratch` has the traced program. The answer is JSON: the reason why it cannot be converted, or
    the platforms and the error of the outputs, relative to their norm.
    """
    program = torch.export.load(scratch / TRACED)
    try:
        answer = _converted(program, folder)
    except Unconvertible as error:
        answer = {"infeasible": str(error)}
    (scratch / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def _converted(program: ExportedProgram, folder: Path) -> dict[str, Any]:
    assert program.example_inputs is not None
    examples = [tensor.contiguous() for tensor in program.example_inputs[0]]
    with torch.no_grad():
        wanted = program.module()(*examples)
    lowered = program.run_decompositions().run_decompositions(decompositions.DECOMPOSITIONS)
    _require_operators(lowered)
    weights = folded(lowered)
    # XLA's default rounds float32 products on accelerators, to TF32 on GPUs and bfloat16 on TPUs.
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(_function(lowered, weights)), platforms=PLATFORMS)(
            {name: _shape(tensor) for name, tensor in weights.tensors.items()},
            *map(_shape, examples),
        )
    save_file(weights.tensors, folder / WEIGHTS)
    (folder / MODULE).write_bytes(exported.serialize())
    return {"platforms": list(exported.platforms), "error": _error(folder, examples, wanted)}


def _require_operators(program: ExportedProgram) -> None:
    """Raise Unconvertible if torchax lacks one of the program's operators."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, _OVERLOAD):
            continue
        if node.target not in OPERATORS and node.target.overloadpacket not in OPERATORS:
            raise Unconvertible(f"torchax has no JAX function for the operator {node.target}.")


def _function(program: ExportedProgram, weights: Weights) -> Any:
    """Return the program as a JAX function of its weights by name and of its inputs."""
    specs = program.graph_signature.input_specs
    inputs = [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]
    kept = [spec.kind is OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs]

    def function(stored: dict[str, Any], *arguments: Any) -> tuple[Any, ...]:
        values = {node: stored[name] for node, name in weights.names.items()}
        values |= dict(zip(inputs, arguments, strict=True))
        interpreter: Any = _Interpreter(program.graph_module, values)
        # placeholders of weights that are folded, or that nothing reads, have no value
        outputs = interpreter.run(*[None] * len(specs), enable_io_processing=False)
        return tuple(o for o, keep in zip(outputs, kept, strict=True) if keep)

    return function


class _Interpreter(JaxInterpreter):  # type: ignore[misc]
    """Interpreter that knows the values of some nodes, and runs no node that only they need."""

    def __init__(self, module: torch.fx.GraphModule, values: dict[str, Any]) -> None:
        super().__init__(module)
        self._values = values
        self._needed = needed(module.graph, set(values))

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.name in self._values:
            return self._values[n.name]
        return super().run_node(n) if n.name in self._needed else None


def _shape(tensor: torch.Tensor) -> jax.ShapeDtypeStruct:
    """Return shape and type of a tensor, in at most 32 bits as JAX and TPUs have them."""
    return jax.ShapeDtypeStruct(tuple(tensor.shape), taken(tensor.dtype))


def _error(folder: Path, examples: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Return the distance of the module's outputs from the model's, as a share of their norm."""
    start(threads=1)
    run = compiled(folder, threads=1, constant=False)
    outputs = [np.asarray(o, np.float64) for o in run(run.placed(examples))]
    pairs = [(o, w.double().numpy()) for o, w in zip(outputs, wanted, strict=True)]
    norm = math.sqrt(sum(float(np.square(w).sum()) for _, w in pairs))
    distance = math.sqrt(sum(float(np.square(o - w).sum()) for o, w in pairs))
    return distance / norm if norm else distance


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
