"""Sparse weights in OpenVINO models: nonzero values and their indices, made dense at load."""

from typing import Any

import numpy as np

from objectives.exporting import sparse_graphs, without_module

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino
    import openvino.opset13 as opset

_NODES = 3000
"""Approximate bytes of XML for one sparse weight."""


def store_sparse(model: openvino.Model) -> int:
    """Store float weights sparsely, in place, where that is smaller; return their number.

    The plugin evaluates subgraphs of constants when it compiles, but not a cumulative sum. Values
    therefore have indices, in two or three bytes, instead of gaps.
    """
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        array = node.data
        nonzero = np.count_nonzero(array)
        size = 4 + 2 + (array.size > 2**16)
        if array.size > 2**24 or nonzero * size + _NODES >= array.nbytes:
            continue
        dense = _scattered(array)
        dense.set_friendly_name(f"{node.get_friendly_name()}_sparse")
        for port in list(node.output(0).get_target_inputs()):
            port.replace_source_output(dense.output(0))
        count += 1
    return count


def _scattered(array: np.ndarray[Any, Any]) -> openvino.Node:
    """Return a node that computes `array` from its nonzero values and their indices."""
    flat = np.ascontiguousarray(array).reshape(-1)
    low, high = sparse_graphs.split_indices(flat)
    indices = opset.convert(opset.constant(low), "i32")
    if high is not None:
        upper = opset.convert(opset.constant(high), "i32")
        shifted = opset.multiply(upper, opset.constant(np.int32(2**16)))
        indices = opset.add(shifted, indices)
    zeros = opset.broadcast(
        opset.constant(np.float32(0)), opset.constant(np.array([flat.size], np.int64))
    )
    values = opset.constant(flat[flat.view(np.uint32) != 0])
    dense = opset.scatter_elements_update(zeros, indices, values, opset.constant(np.int32(0)))
    return opset.reshape(dense, opset.constant(np.array(array.shape, np.int64)), False)
