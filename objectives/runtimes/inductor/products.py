"""Products of a traced program, with the library calls that Inductor's generated code makes."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from torch import fx
from torch.export import ExportedProgram

from objectives.execution import Kind, Operation

_KINDS = {
    "conv1d": Kind.CONVOLUTION,
    "conv2d": Kind.CONVOLUTION,
    "conv3d": Kind.CONVOLUTION,
    "linear": Kind.LINEAR,
    "addmm": Kind.LINEAR,
    "mm": Kind.LINEAR,
    "matmul": Kind.PRODUCT,
    "bmm": Kind.PRODUCT,
    "baddbmm": Kind.PRODUCT,
    "scaled_dot_product_attention": Kind.PRODUCT,
}
"""Kinds of the operators of traced programs that multiply; transposed convolutions are not here."""
_CALL = re.compile(r"AOTI_TORCH_ERROR_CODE_CHECK\(aoti_torch_cpu_(\w+)\(")
_CALLED = (
    ("conv", Kind.CONVOLUTION),
    ("scaled_dot_product", Kind.PRODUCT),
    ("linear", Kind.LINEAR),
    ("addmm", Kind.LINEAR),
    ("bmm", Kind.PRODUCT),
    ("mm", Kind.LINEAR),
)
"""Parts of the names of library calls, the first that fits counts."""


def executed(program: ExportedProgram, sources: str, dtype: str) -> list[dict[str, Any]] | None:
    """Return the products of a program as generated code executes them, as plain data.

    `program` is the traced model before quantization, `sources` the code, `dtype` its
    floating-point type. The code's calls stand in the order of the graph. Returns None if they are
    not one call a product, as where loops of the code multiply themselves.
    """
    products, calls = _products(program), _calls(sources)
    if [product.kind for product in products] != [kind for _, kind in calls]:
        return None
    return [
        {
            "name": product.name,
            "kind": str(product.kind),
            "precision": "int8" if name.startswith(("_qconv", "_qlinear")) else dtype,
            "multiply_adds": product.multiply_adds,
        }
        for product, (name, _) in zip(products, calls, strict=True)
    ]


def operations(entries: Sequence[dict[str, Any]] | None) -> tuple[Operation, ...] | None:
    """Return the operations that `executed` described, without their times."""
    if entries is None:
        return None
    return tuple(Operation(**{**entry, "kind": Kind(entry["kind"])}) for entry in entries)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Product:
    name: str
    kind: Kind
    multiply_adds: int


def _products(program: ExportedProgram) -> list[_Product]:
    found = []
    for node in program.graph.nodes:
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op == "call_function" and name in _KINDS:
            found.append(
                _Product(
                    name=node.name, kind=_KINDS[name], multiply_adds=_multiply_adds(name, node)
                )
            )
    return found


def _multiply_adds(name: str, node: fx.Node) -> int:
    """Return the multiply-adds of a node from the shapes that were traced."""
    shapes = [list(a.meta["val"].shape) for a in node.args if isinstance(a, fx.Node)]
    outputs = math.prod(node.meta["val"].shape)
    if name.startswith("conv"):
        return int(outputs * math.prod(shapes[1][1:]))
    if name == "scaled_dot_product_attention":
        return int(2 * math.prod(shapes[0]) * shapes[1][-2])
    first = 1 if name in ("addmm", "baddbmm") else 0
    return int(outputs * shapes[first][-1])


def _calls(sources: str) -> list[tuple[str, Kind]]:
    """Return the library calls that multiply, in order, each with its kind."""
    calls = []
    for name in _CALL.findall(sources):
        kind = next((kind for part, kind in _CALLED if part in name), None)
        if kind is not None:
            calls.append((name, kind))
    return calls
