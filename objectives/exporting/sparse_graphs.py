"""Sparse weights in ONNX graphs: nonzero values and their indices, made dense at load.

Runtimes evaluate subgraphs of constants once, when they load a graph, so a run takes as long as
with dense weights. ONNX's own sparse initializers take eight bytes per index, and OpenVINO refuses
to read them.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

_NODES = 700
"""Approximate bytes of the nodes of one sparse weight."""
_TOP = 255
"""Largest gap that one byte stores."""


def store_onnx(model: onnx.ModelProto) -> int:
    """Store float initializers sparsely, in place, where that is smaller; return their number.

    An index is stored as the gap to the previous one, in one byte. ONNX Runtime's default
    optimizations sum the gaps at load; OpenVINO would sum them at every run.
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
    """Return the gaps (uint8) between the indices of values, and the values (float32).

    Zeros are stored as values where a gap exceeds _TOP.
    """
    indices = np.flatnonzero(flat.view(np.uint32))  # negative zeros have a bit set
    steps = np.diff(indices, prepend=-1)
    extra = (steps - 1) // _TOP
    ends = np.cumsum(extra + 1) - 1
    size = int(ends[-1]) + 1 if len(ends) else 0
    gaps = np.full(size, _TOP, np.uint8)
    values = np.zeros(size, np.float32)
    gaps[ends] = steps - extra * _TOP
    values[ends] = flat[indices]
    return gaps, values


def _scattered(
    name: str, array: Array, gaps: Array, values: Array
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes that make a dense constant out of sparse ones, and the sparse ones."""
    arrays = {
        "gaps": gaps,
        "values": values,
        "length": np.array([array.size], np.int64),
        "shape": np.array(array.shape, np.int64),
        "axis": np.array(0, np.int64),
        "one": np.array(1, np.int32),
    }
    computed = ("wide", "sums", "places", "zeros", "all")
    names = {key: f"{name}_sparse_{key}" for key in (*arrays, *computed)}
    constants = [numpy_helper.from_array(array, names[key]) for key, array in arrays.items()]
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Cast", ["gaps"], names["wide"], {"to": onnx.TensorProto.INT32}),
        ("CumSum", ["wide", "axis"], names["sums"], {}),
        ("Sub", ["sums", "one"], names["places"], {}),
        ("ConstantOfShape", ["length"], names["zeros"], {"value": zero}),
        ("ScatterElements", ["zeros", "places", "values"], names["all"], {"axis": 0}),
        ("Reshape", ["all", "shape"], name, {}),
    ]
    nodes = [
        helper.make_node(kind, [names[i] for i in inputs], [output], **options)
        for kind, inputs, output, options in steps
    ]
    return nodes, constants


def split_indices(flat: Array) -> tuple[Array, Array | None]:
    """Return the indices of nonzero elements as their lower 16 bits (uint16) and next 8 (uint8).

    The second part is None for up to 2 ** 16 elements. Raises ValueError beyond 2 ** 24 elements.
    """
    if len(flat) > 2**24:
        raise ValueError(f"places take at most 24 bits, got {len(flat)} elements")
    indices = np.flatnonzero(flat.view(np.uint32))
    low = (indices & 0xFFFF).astype(np.uint16)
    return low, (indices >> 16).astype(np.uint8) if len(flat) > 2**16 else None
