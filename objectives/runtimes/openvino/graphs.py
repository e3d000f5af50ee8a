"""Queries of OpenVINO graphs: layers, the constants of their weights, readers of constants."""

from collections import Counter
from typing import Any

from objectives.exporting import describe_weights, without_module
from spaces import Encoding, Infeasible

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino

LAYERS = ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData")
_INTEGERS = ("i4", "u4", "i8", "u8", "u1", "u2", "u3", "u6")
_TRANSPARENT = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize")
"""Operations that may stand between a layer and its stored weight."""


def weight(node: Any, position: int, *, books: bool = False) -> Any | None:
    """Return the constant that a layer's input is dequantized from; None if there is none.

    With `books`, weights may also be looked up in a codebook: the constant is then that of the
    indices.
    """
    source = node.input_value(position).get_node()
    while (kind := source.get_type_name()) in _TRANSPARENT or (books and kind == "Gather"):
        source = source.input_value(int(kind == "Gather")).get_node()
    return source if source.get_type_name() == "Constant" else None


def readers(node: Any) -> list[Any]:
    """Return the nodes that use a constant, behind those that only convert, reshape or split it."""
    users = [port.get_node() for out in node.outputs() for port in out.get_target_inputs()]
    shaping = (*_TRANSPARENT, "Split")
    behind = [readers(user) if user.get_type_name() in shaping else [user] for user in users]
    return [user for part in behind for user in part]


def renumber(model: openvino.Model) -> None:
    """Number unnamed nodes by their place in the graph, so that equal models give equal files.

    OpenVINO's own numbers depend on what the process has built before.
    """
    for place, node in enumerate(model.get_ordered_ops()):
        kind, _, number = node.get_friendly_name().rpartition("_")
        if kind == node.get_type_name() and number.isdigit():
            node.set_friendly_name(f"{kind}_{place}")


def convolutional(model: openvino.Model) -> bool:
    """True if the model has convolutions and no attention (a product of two activations)."""
    kinds = [node.get_type_name() for node in model.get_ops()]
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    attention = any(all(weight(node, i) is None for i in (0, 1)) for node in products)
    return any(kind in LAYERS[1:] for kind in kinds) and not attention


def count_layers(model: openvino.Model, encoding: Encoding) -> dict[str, int]:
    """Return the number of layers and the number of those with integer weights, as notes.

    Raises Infeasible if the encoding asks for integers and no layer has them.
    """
    types, books = Counter[str](), encoding.packed
    for node in model.get_ops():
        if node.get_type_name() in LAYERS:
            constants = (weight(node, position, books=books) for position in (1, 0))
            weights = [constant for constant in constants if constant is not None]
            types.update(w.get_element_type().get_type_name() for w in weights[:1])
    total = types.total()
    quantized = sum(types[name] for name in _INTEGERS)
    if encoding.quantized and quantized == 0:
        raise Infeasible(
            f"none of the {total} convolution and linear layers could be quantized to "
            f"{describe_weights(encoding)} in OpenVINO"
        )
    return {"layers": total, "quantized_layers": quantized}
