"""Products of an optimised XLA program, from its text."""

import math
import re
from collections.abc import Mapping

from objectives.execution import Kind, Operation

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.-]+) = (\w+)\[([\d,]*)\]\S* ([\w-]+)\((.*)$", re.M)
"""Name, element type, shape, operator and the rest of a line: operands and attributes."""
_OPERAND = re.compile(r"%([\w.-]+)")
_TYPES = {
    "f32": "float32",
    "f64": "float64",
    "f16": "float16",
    "bf16": "bfloat16",
    "s8": "int8",
    "u8": "int8",
}
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def products(text: str) -> tuple[Operation, ...]:
    """Return the convolutions and products of matrices of a program, without their times.

    Products with batch dimensions multiply activations. Multiplications of a library call, whose
    text does not say how it contracts, are not counted.
    """
    found = _INSTRUCTION.findall(text)
    shapes = {name: (kind, _sizes(shape)) for name, kind, shape, _, _ in found}
    operations = []
    for name, _, shape, operator, rest in found:
        if operator == "convolution":
            operations.append(_convolution(name, _sizes(shape), rest, shapes))
        elif operator == "dot":
            operations.append(_dot(name, _sizes(shape), rest, shapes))
        elif operator == "custom-call" and re.search(r"matmul|gemm|conv", rest):
            operations.append(_call(name, rest, shapes))
    return tuple(operations)


def _sizes(shape: str) -> tuple[int, ...]:
    return tuple(int(size) for size in shape.split(",") if size)


def _convolution(name: str, output: tuple[int, ...], rest: str, shapes: Shapes) -> Operation:
    (_, _), (_, kernel) = _operands(rest, shapes)[:2]
    labels = re.search(r"dim_labels=\w+_(\w+)->", rest)
    assert labels is not None
    outputs = kernel[labels[1].index("o")]  # all other dimensions of the kernel are summed over
    return Operation(
        name=name,
        kind=Kind.CONVOLUTION,
        precision=_precision(rest, shapes),
        multiply_adds=math.prod(output) * math.prod(kernel) // outputs,
    )


def _dot(name: str, output: tuple[int, ...], rest: str, shapes: Shapes) -> Operation:
    (_, left), *_ = _operands(rest, shapes)
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)
    dimensions = _sizes(contracted[1]) if contracted else ()
    return Operation(
        name=name,
        kind=Kind.PRODUCT if "lhs_batch_dims={" in rest else Kind.LINEAR,
        precision=_precision(rest, shapes),
        multiply_adds=math.prod(output) * math.prod(left[d] for d in dimensions),
    )


def _call(name: str, rest: str, shapes: Shapes) -> Operation:
    kind = Kind.CONVOLUTION if "conv" in rest else Kind.LINEAR
    return Operation(name=name, kind=kind, precision=_precision(rest, shapes))


def _precision(rest: str, shapes: Shapes) -> str | None:
    """Return the type of the factors; None if it is one without a name."""
    operands = _operands(rest, shapes)
    return _TYPES.get(operands[0][0]) if operands else None


def _operands(rest: str, shapes: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    """Return type and shape of each operand; it is the text up to the closing parenthesis."""
    return [shapes[name] for name in _OPERAND.findall(rest.partition(")")[0]) if name in shapes]
