"""Weights of ONNX graphs: find the layers that have them, store them as uint8."""

import dataclasses
import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

_INTEGER_OPS = {
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
    "QLinearConv",
    "QLinearMatMul",
}
_OUTPUTS = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1, "Gather": 0}
"""Dimension of output channels in a weight; for an embedding, the dimension that is looked up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """A node with a constant weight."""

    node: onnx.NodeProto
    weight: onnx.TensorProto
    position: int
    """Index of the weight among the node's inputs."""
    axis: int
    """The weight's dimension of output channels."""


def layers(model: onnx.ModelProto, *kinds: str) -> list[Layer]:
    """Return the convolution, linear and embedding layers of a float graph, in graph order.

    `kinds` restricts them to some types of nodes.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    matches = []
    for node in model.graph.node:
        position = 0 if node.op_type == "Gather" else 1
        if node.op_type not in (kinds or tuple(_OUTPUTS)) or len(node.input) <= position:
            continue
        weight = constants.get(node.input[position])
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        if node.op_type in ("MatMul", "Gemm", "Gather") and len(weight.dims) != 2:
            continue
        options = attributes(node)
        axis = _OUTPUTS[node.op_type]
        if node.op_type == "Gemm" and options.get("transB"):
            axis = 0
        if node.op_type == "Gather" and options.get("axis"):
            continue
        matches.append(Layer(node=node, weight=weight, position=position, axis=axis))
    return matches


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def multiplying(model: onnx.ModelProto) -> list[Layer]:
    """Return the layers that multiply: convolutions and linear layers, not embeddings."""
    return [layer for layer in layers(model) if layer.node.op_type != "Gather"]


def stored_weights(model: onnx.ModelProto) -> int:
    """Return the number of weights that `store_int8` stores, counting shared ones once."""
    return sum({x.weight.name: math.prod(x.weight.dims) for x in layers(model)}.values())


def integer_layers(model: onnx.ModelProto) -> int:
    """Return the number of convolutions and linear layers with integer weights."""
    dequantized = {
        name: node.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    count = 0
    for node in model.graph.node:
        if node.op_type in _INTEGER_OPS:
            count += 1
        elif node.op_type in _OUTPUTS and node.op_type != "Gather" and len(node.input) > 1:
            count += dequantized.get(node.input[1]) in constants
    return count


def store_int8(model: onnx.ModelProto, *kinds: str) -> None:
    """Store the weights of layers of `kinds` (all by default) as uint8, in place.

    Each output channel has a scale and a zero point; a DequantizeLinear before the layer restores
    the float weight.
    """
    restored: dict[tuple[str, int], str] = {}
    for layer in layers(model, *kinds):
        key = (layer.weight.name, layer.axis)
        if key not in restored:
            restored[key] = _add_dequantized(model, layer)
        layer.node.input[layer.position] = restored[key]
    drop_unused(model)


def _add_dequantized(model: onnx.ModelProto, layer: Layer) -> str:
    """Add a weight's constants and the node that restores it; return the node's output."""
    values = numpy_helper.to_array(layer.weight)
    others = tuple(i for i in range(values.ndim) if i != layer.axis)
    stored, scale, zero = _rounded(values, others, 255)
    name = f"{layer.weight.name}_axis{layer.axis}"
    parts = {f"{name}_uint8": stored, f"{name}_scale": scale, f"{name}_zero": zero}
    for part, array in parts.items():
        flat = array if array is stored else array.reshape(-1)
        model.graph.initializer.append(numpy_helper.from_array(flat, part))
    node = helper.make_node("DequantizeLinear", list(parts), [f"{name}_float"], axis=layer.axis)
    model.graph.node.insert(0, node)
    return f"{name}_float"


def _rounded(values: Array, axes: tuple[int, ...], top: int) -> tuple[Array, Array, Array]:
    """Return integers 0..top, scales and zero points, one for all values along `axes`.

    The range always contains zero, so that padding and pruned weights stay exact.
    """
    low = np.minimum(values.min(axis=axes, keepdims=True), 0)
    high = np.maximum(values.max(axis=axes, keepdims=True), 0)
    scale = np.maximum((high - low) / top, 1e-12).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, top)
    stored = np.clip(np.rint(values / scale) + zero, 0, top)
    return stored.astype(np.uint8), scale, zero.astype(np.uint8)


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove constants that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    used |= {output.name for output in model.graph.output}
    names = [tensor.name for tensor in model.graph.initializer]
    for index in reversed(range(len(names))):
        if names[index] not in used:
            del model.graph.initializer[index]
