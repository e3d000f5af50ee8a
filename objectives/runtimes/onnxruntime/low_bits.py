"""Weight codes in ONNX graphs: packed constants, and the operators that read them."""

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
"""Numbers of inputs that may share a scale in MatMulNBits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredCodes:
    """Numbers of layers and weights that a graph stores as codes."""

    kernels: int = 0
    """Layers with a kernel that computes from the codes."""
    unpacked: int = 0
    """Layers whose codes are unpacked to floats when the file is loaded."""
    tables: int = 0
    """Embedding tables, also unpacked at load; not included in `unpacked`."""
    weights: int = 0
    """Weights that the file stores as codes."""


def store_codes(
    model: onnx.ModelProto,
    codes: Mapping[str, Codes],
    *,
    kernels: frozenset[int],
    level: int,
    coder: str,
) -> StoredCodes:
    """Replace the float weights of a graph that equal `codes`, in place.

    Linear layers of the widths in `kernels` become MatMulNBits at accuracy `level` (4 rounds its
    inputs to 8 bits, 1 does not). A function in the file unpacks other weights from packed
    constants; the runtime evaluates it once, when it loads the file.
    """
    known = list(codes.values())
    unpacked_names: dict[tuple[str, int], str] = {}
    sizes: dict[str, int] = {}
    kernel_count = tables = 0
    unpacked = _store_recurrent(model, known, coder, sizes)
    for layer in layers(model):
        match, transposed = _match(layer, known)
        if match is None:
            continue
        sizes[layer.weight.name] = match.codes.numel()
        plain = transposed == (layer.axis == 1) and _plain(layer)
        if match.bits in kernels and plain and _blocked(match) is not None:
            _replace(model, layer.node, _product(model, layer.node, match, level))
            kernel_count += 1
            continue
        key = (layer.weight.name, layer.axis)
        if key not in unpacked_names:
            shape = (match.rows, match.columns) if transposed else match.shape
            unpacked_names[key] = _add_unpacked(model, match, coder, shape, transposed=transposed)
        layer.node.input[layer.position] = unpacked_names[key]
        if layer.node.op_type != "Gather":
            unpacked += 1
        else:
            tables += 1
    drop_unused(model)
    return StoredCodes(
        kernels=kernel_count, unpacked=unpacked, tables=tables, weights=sum(sizes.values())
    )


def _match(layer: Layer, known: list[Codes]) -> tuple[Codes | None, bool]:
    """Return the codes of a layer's weight or None, and True if their rows are its columns.

    Rows of codes are outputs. If no codes match that way, they are compared with dimension 0, as in
    transposed convolutions and in linear layers whose torch weight is (inputs, outputs) too.
    """
    values = torch.from_numpy(numpy_helper.to_array(layer.weight).copy())
    for axis in dict.fromkeys((layer.axis, 0) if values.dim() == 2 else (0,)):
        rows = values.movedim(axis, 0).flatten(1)
        for codes in known:
            if (match := match_rows(rows, codes)) is not None:
                return match, axis == 1
    return None, False


def _store_recurrent(
    model: onnx.ModelProto, known: list[Codes], coder: str, sizes: dict[str, int]
) -> int:
    """Store the weights of recurrent layers as codes; return the number of such layers.

    The number of values of each stored weight is added to `sizes`, by the weight's name.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    count = 0
    for node in [n for n in model.graph.node if n.op_type in ("LSTM", "GRU", "RNN")]:
        before = len(sizes)
        for position in (1, 2):
            weight = constants.get(node.input[position])
            if weight is None:
                continue
            values = torch.from_numpy(numpy_helper.to_array(weight).copy())
            directions = match_recurrent(values, known)
            if directions is None:
                continue
            parts = [
                _add_unpacked(model, codes, coder, (1, *codes.shape), transposed=False)
                for codes in directions
            ]
            joined = f"{parts[0]}.joined"
            after = _index(model, parts[0]) + 1  # parts go to the front, so the first is last
            model.graph.node.insert(after, helper.make_node("Concat", parts, [joined], axis=0))
            node.input[position] = joined
            sizes[weight.name] = values.numel()
        count += len(sizes) > before
    return count


def _index(model: onnx.ModelProto, output: str) -> int:
    """Return the index of the node with an output."""
    return [output in node.output for node in model.graph.node].index(True)


def _plain(layer: Layer) -> bool:
    """True if a node is a linear layer without factors and with its input as it is."""
    options = attributes(layer.node)
    return (
        layer.node.op_type in ("MatMul", "Gemm")
        and not options.get("transA")
        and options.get("alpha", 1.0) == 1
        and options.get("beta", 1.0) == 1
    )


def _add_unpacked(
    model: onnx.ModelProto, codes: Codes, coder: str, shape: tuple[int, ...], *, transposed: bool
) -> str:
    """Add the constants of a weight and the nodes that unpack it; return the weight's name.

    The weight is unpacked to `shape`; if `transposed`, the matrix is then transposed.
    """
    packed_codes = layout(codes, coder)
    name = f"w{len(model.graph.initializer)}"
    parts = {f"{name}.{i}": part for i, part in enumerate(packed_codes.parts)}
    parts[f"{name}.s"] = codes.scale
    parts[f"{name}.z"] = zero_points(codes) if codes.book is None else codes.book
    for part, tensor in parts.items():
        _constant(model, part, tensor.contiguous().numpy())
    booked = codes.book is not None
    kind = function_name(packed_codes.bits, booked=booked)
    if kind not in {function.name for function in model.functions}:
        model.functions.append(function_of(packed_codes.bits, booked=booked))
        _import(model, DOMAIN)
    node = helper.make_node(
        kind,
        list(parts),
        [f"{name}.t" if transposed else name],
        domain=DOMAIN,
        grid=list(codes.codes.shape),
        shape=list(shape),
    )
    if transposed:
        model.graph.node.insert(0, helper.make_node("Transpose", [f"{name}.t"], [name]))
    model.graph.node.insert(0, node)
    return name


def _constant(model: onnx.ModelProto, name: str, array: np.ndarray[Any, Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(array, name))


def _import(model: onnx.ModelProto, domain: str) -> None:
    if domain not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> None:
    index = [other.output[0] for other in model.graph.node].index(node.output[0])
    del model.graph.node[index]
    for offset, new in enumerate(nodes):
        model.graph.node.insert(index + offset, new)


def _product(
    model: onnx.ModelProto, node: onnx.NodeProto, codes: Codes, level: int
) -> list[onnx.NodeProto]:
    """Return the nodes that compute the same as a linear `node`, from codes."""
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
    """Return the same codes in blocks of a size in BLOCKS; None if MatMulNBits cannot read them."""
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
    """Return the constants of MatMulNBits: codes, scales and zero points.

    Codes are uint8 (outputs, blocks, bytes), scales are flat, and zero points are flat and packed,
    those of each row beginning with a new byte.
    """
    rows, count, block = codes.codes.shape
    (packed,) = pack(codes.codes, codes.bits)
    per_byte = 8 // codes.bits
    points: Tensor = F.pad(codes.zero.to(torch.uint8).reshape(rows, count), (0, -count % per_byte))
    (zero,) = pack(points, codes.bits)
    return (
        packed.reshape(rows, count, block // per_byte).numpy(),
        codes.scale.reshape(-1).contiguous().numpy(),
        zero.numpy(),
    )
