"""Weights in codes in an ONNX graph: packed constants, and the operators that read them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from objectives.exporting import layout, match_recurrent, match_rows, zero_points
from objectives.runtimes.onnxruntime.unpacking import DOMAIN, function_name, function_of
from objectives.runtimes.onnxruntime.weights import Layer, attributes, drop_unused, layers
from spaces.modules import Codes, pack

BLOCKS = (16, 32, 64, 128, 256)
"""Inputs that may share a scale in MatMulNBits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """How many layers were given codes, and how they are executed."""

    kernels: int = 0
    """By a kernel that computes from the codes."""
    unpacked: int = 0
    """From floats, unpacked when the file is loaded."""
    tables: int = 0
    """Embedding tables, unpacked likewise; not counted with the layers."""
    weights: int = 0
    """Weights that codes stand for in the file."""


def store_codes(
    model: onnx.ModelProto,
    codes: Mapping[str, Codes],
    *,
    kernels: frozenset[int],
    level: int,
    coder: str,
) -> Placed:
    """Replace the float weights that `codes` stand for.

    Linear layers of the widths in `kernels` become MatMulNBits at accuracy `level` (4 rounds its
    inputs to 8 bits, 1 does not). Other weights are made from packed constants by a function in
    the file, which the runtime evaluates once, when it loads the file.
    """
    left = list(codes.values())
    done: dict[tuple[str, int], str] = {}
    used: dict[str, int] = {}
    kernel_count = tables = 0
    unpacked = _store_recurrent(model, left, coder, used)
    for layer in layers(model):
        found, turned = _matched(layer, left)
        if found is None:
            continue
        used[layer.weight.name] = found.codes.numel()
        plain = turned == (layer.axis == 1) and _plain(layer)
        if found.bits in kernels and plain and _blocked(found) is not None:
            _replace(model, layer.node, _product(model, layer.node, found, level))
            kernel_count += 1
            continue
        key = (layer.weight.name, layer.axis)
        if key not in done:
            shape = (found.rows, found.columns) if turned else found.shape
            done[key] = _unpacked(model, found, coder, shape, turned=turned)
        layer.node.input[layer.position] = done[key]
        if layer.node.op_type != "Gather":
            unpacked += 1
        else:
            tables += 1
    drop_unused(model)
    return Placed(
        kernels=kernel_count, unpacked=unpacked, tables=tables, weights=sum(used.values())
    )


def _matched(layer: Layer, known: list[Codes]) -> tuple[Codes | None, bool]:
    """Return the codes of a weight, and whether their rows are its columns.

    Rows are outputs, or where none match that, dimension 0 whatever it counts: transposed
    convolutions and linear layers whose weight torch too holds as (inputs, outputs).
    """
    values = torch.from_numpy(numpy_helper.to_array(layer.weight).copy())
    for axis in dict.fromkeys((layer.axis, 0) if values.dim() == 2 else (0,)):
        rows = values.movedim(axis, 0).flatten(1)
        for own in known:
            if (found := match_rows(rows, own)) is not None:
                return found, axis == 1
    return None, False


def _store_recurrent(
    model: onnx.ModelProto, known: list[Codes], coder: str, used: dict[str, int]
) -> int:
    """Make the weights of recurrent layers from codes; return how many of these layers have them.

    What is stored is noted in `used`, by the name of the weight.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers_found = 0
    for node in [n for n in model.graph.node if n.op_type in ("LSTM", "GRU", "RNN")]:
        before = len(used)
        for position in (1, 2):
            weight = constants.get(node.input[position])
            if weight is None:
                continue
            values = torch.from_numpy(numpy_helper.to_array(weight).copy())
            found = match_recurrent(values, known)
            if found is None:
                continue
            parts = [_unpacked(model, own, coder, (1, *own.shape), turned=False) for own in found]
            joined = f"{parts[0]}.joined"
            after = _place(model, parts[0]) + 1  # each was put in front of those before it
            model.graph.node.insert(after, helper.make_node("Concat", parts, [joined], axis=0))
            node.input[position] = joined
            used[weight.name] = values.numel()
        layers_found += len(used) > before
    return layers_found


def _place(model: onnx.ModelProto, output: str) -> int:
    """Return where the node with an output is."""
    return [output in node.output for node in model.graph.node].index(True)


def _plain(layer: Layer) -> bool:
    """Whether a node is a linear layer without factors."""
    options = attributes(layer.node)
    return (
        layer.node.op_type in ("MatMul", "Gemm")
        and not options.get("transA")
        and options.get("alpha", 1.0) == 1
        and options.get("beta", 1.0) == 1
    )


def _unpacked(
    model: onnx.ModelProto, codes: Codes, coder: str, shape: tuple[int, ...], *, turned: bool
) -> str:
    """Add a weight's constants and the nodes that make it in a shape; return the weight's name.

    Where `turned` a matrix is transposed at last.
    """
    placed = layout(codes, coder)
    name = f"w{len(model.graph.initializer)}"
    parts = {f"{name}.{i}": part for i, part in enumerate(placed.parts)}
    parts[f"{name}.s"] = codes.scale
    parts[f"{name}.z"] = zero_points(codes) if codes.book is None else codes.book
    for part, tensor in parts.items():
        _constant(model, part, tensor.contiguous().numpy())
    booked = codes.book is not None
    kind = function_name(placed.bits, booked=booked)
    if kind not in {function.name for function in model.functions}:
        model.functions.append(function_of(placed.bits, booked=booked))
        _import(model, DOMAIN)
    node = helper.make_node(
        kind,
        list(parts),
        [f"{name}.t" if turned else name],
        domain=DOMAIN,
        grid=list(codes.codes.shape),
        shape=list(shape),
    )
    if turned:
        model.graph.node.insert(0, helper.make_node("Transpose", [f"{name}.t"], [name]))
    model.graph.node.insert(0, node)
    return name


def _constant(model: onnx.ModelProto, name: str, array: np.ndarray[Any, Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(array, name))


def _import(model: onnx.ModelProto, domain: str) -> None:
    if domain not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, by: list[onnx.NodeProto]) -> None:
    index = [other.output[0] for other in model.graph.node].index(node.output[0])
    del model.graph.node[index]
    for offset, new in enumerate(by):
        model.graph.node.insert(index + offset, new)


def _product(
    model: onnx.ModelProto, node: onnx.NodeProto, codes: Codes, level: int
) -> list[onnx.NodeProto]:
    """Return the nodes that compute what a linear `node` did, from codes."""
    blocked = _blocked(codes)
    assert blocked is not None
    packed, scales, points = matmul_constants(blocked)
    name = node.output[0]
    constants = {f"{name}.q": packed, f"{name}.s": scales, f"{name}.z": points}
    for part, array in constants.items():
        _constant(model, part, array)
    _import(model, "com.microsoft")
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    product = f"{name}.product" if bias else name
    multiply = helper.make_node(
        "MatMulNBits",
        [node.input[0], *constants],
        [product],
        domain="com.microsoft",
        N=codes.rows,
        K=codes.columns,
        bits=codes.bits,
        block_size=blocked.codes.shape[-1],
        accuracy_level=level,
    )
    return [multiply, helper.make_node("Add", [product, bias], [name])] if bias else [multiply]


def _blocked(codes: Codes) -> Codes | None:
    """Return the same codes in blocks that MatMulNBits knows, None where there are none."""
    group = codes.codes.shape[-1]
    if codes.book is not None or not torch.equal(codes.zero, codes.zero.round()):
        return None
    rows = codes.rows
    scale, zero = (t.expand(rows, codes.codes.shape[1], 1) for t in (codes.scale, codes.zero))
    if group in BLOCKS:
        return dataclasses.replace(codes, scale=scale, zero=zero)
    if codes.codes.shape[1] > 1:
        return None
    padded = {block: -(-codes.columns // block) for block in BLOCKS}
    block = min(BLOCKS, key=lambda b: padded[b] * (b * codes.bits / 8 + 4))
    count = padded[block]
    filled = F.pad(codes.codes, (0, count * block - codes.columns))
    return dataclasses.replace(
        codes,
        codes=filled.reshape(rows, count, block),
        scale=scale.expand(rows, count, 1),
        zero=zero.expand(rows, count, 1),
    )


def matmul_constants(codes: Codes) -> tuple[np.ndarray[Any, Any], ...]:
    """Return MatMulNBits' (outputs, blocks, bytes) codes, flat scales and flat packed zeros.

    Each row's zero points start on a byte of their own.
    """
    rows, count, block = codes.codes.shape
    (whole,) = pack(codes.codes, codes.bits)
    per = 8 // codes.bits
    points: Tensor = F.pad(codes.zero.to(torch.uint8).reshape(rows, count), (0, -count % per))
    (zero,) = pack(points, codes.bits)
    return (
        whole.reshape(rows, count, block // per).numpy(),
        codes.scale.reshape(-1).contiguous().numpy(),
        zero.numpy(),
    )
