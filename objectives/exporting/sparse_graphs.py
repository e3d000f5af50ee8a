"""Graphs whose weights with many zeros are stored as values and places, put together at load.

Runtimes compute what depends on constants only once, when a graph is loaded, so that nothing of
it is left when it runs. ONNX has sparse initializers of its own: eight bytes for each place, and
OpenVINO refuses to read them.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

_NODES = 700
"""Bytes that the nodes of one sparse weight take, about."""
_TOP = 255


def store_onnx(model: onnx.ModelProto) -> int:
    """Store float initializers of `model` sparsely where that is shorter; return how many.

    One byte for the distance from a value to the next one. OpenVINO would sum these up at every
    run. A graph that is read by ONNX Runtime's default optimizations folds them.
    """
    count = 0
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
            continue
        array = numpy_helper.to_array(tensor)
        gaps, values = _gaps(array.reshape(-1))
        if len(gaps) + values.nbytes + _NODES >= array.nbytes:
            continue
        nodes, constants = _scattered(tensor.name, array, gaps, values)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend(constants)
        for position, node in enumerate(nodes):
            model.graph.node.insert(position, node)
        count += 1
    return count


def _gaps(flat: Array) -> tuple[Array, Array]:
    """Return distances (uint8) from one value to the next, and the values.

    Over a longer distance zeros are stored as values.
    """
    places = np.flatnonzero(flat.view(np.uint32))  # negative zeros have a bit set
    steps = np.diff(places, prepend=-1)
    extra = (steps - 1) // _TOP
    ends = np.cumsum(extra + 1) - 1
    size = int(ends[-1]) + 1 if len(ends) else 0
    gaps = np.full(size, _TOP, np.uint8)
    values = np.zeros(size, np.float32)
    gaps[ends] = steps - extra * _TOP
    values[ends] = flat[places]
    return gaps, values


def _scattered(
    name: str, array: Array, gaps: Array, values: Array
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes that make a constant out of others, and those."""
    made = {
        "gaps": gaps,
        "values": values,
        "length": np.array([array.size], np.int64),
        "shape": np.array(array.shape, np.int64),
        "axis": np.array(0, np.int64),
        "one": np.array(1, np.int32),
    }
    own = {key: f"{name}_sparse_{key}" for key in (*made, "wide", "sums", "places", "zeros", "all")}
    constants = [numpy_helper.from_array(value, own[key]) for key, value in made.items()]
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["gaps"], own["wide"], {"to": onnx.TensorProto.INT32}),
        ("CumSum", ["wide", "axis"], own["sums"], {}),
        ("Sub", ["sums", "one"], own["places"], {}),
        ("ConstantOfShape", ["length"], own["zeros"], {"value": zero}),
        ("ScatterElements", ["zeros", "places", "values"], own["all"], {"axis": 0}),
        ("Reshape", ["all", "shape"], name, {}),
    ]
    nodes = [
        helper.make_node(kind, [own[i] for i in inputs], [output], **options)
        for kind, inputs, output, options in steps
    ]
    return nodes, constants


def places_in_parts(flat: Array) -> tuple[Array, Array | None]:
    """Return the places of what is not zero: the lower 16 bits, and if there are more, the next 8.

    None for the second where no place needs it. Raises ValueError beyond 2 ** 24 elements.
    """
    if len(flat) > 2**24:
        raise ValueError(f"places take at most 24 bits, got {len(flat)} elements")
    places = np.flatnonzero(flat.view(np.uint32))
    low = (places & 0xFFFF).astype(np.uint16)
    return low, (places >> 16).astype(np.uint8) if len(flat) > 2**16 else None
