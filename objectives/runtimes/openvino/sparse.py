"""Float weights of an OpenVINO model as values and places, where that takes fewer bytes."""

from typing import Any

import numpy as np

from objectives.exporting import sparse_graphs, without_module

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino
    import openvino.opset13 as opset

_NODES = 3000
"""Bytes of XML that a sparse weight takes, about."""


def store_sparse(model: openvino.Model) -> int:
    """Store float weights as values and places where that is shorter; return how many.

    The plugin folds what is made of constants when it compiles, except a running sum: hence
    places, in two or three bytes, and no distances.
    """
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        array = node.data
        kept = np.count_nonzero(array)
        size = 4 + 2 + (array.size > 2**16)
        if array.size > 2**24 or kept * size + _NODES >= array.nbytes:
            continue
        made = _scattered(array)
        made.set_friendly_name(f"{node.get_friendly_name()}_sparse")
        for port in list(node.output(0).get_target_inputs()):
            port.replace_source_output(made.output(0))
        count += 1
    return count


def _scattered(array: np.ndarray[Any, Any]) -> openvino.Node:
    """Return a node that makes `array` out of its values and their places."""
    flat = np.ascontiguousarray(array).reshape(-1)
    low, high = sparse_graphs.split_indices(flat)
    places = opset.convert(opset.constant(low), "i32")
    if high is not None:
        upper = opset.convert(opset.constant(high), "i32")
        shifted = opset.multiply(upper, opset.constant(np.int32(2**16)))
        places = opset.add(shifted, places)
    zeros = opset.broadcast(
        opset.constant(np.float32(0)), opset.constant(np.array([flat.size], np.int64))
    )
    values = opset.constant(flat[flat.view(np.uint32) != 0])
    whole = opset.scatter_elements_update(zeros, places, values, opset.constant(np.int32(0)))
    return opset.reshape(whole, opset.constant(np.array(array.shape, np.int64)), False)
