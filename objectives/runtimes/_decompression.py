"""Weights in codes in an OpenVINO model: constants of few bits, and the graph that reads them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from objectives.runtimes._codes import layout, rows_matched, sequence_matched, zeros
from objectives.runtimes._quiet import absent
from spaces.quantize._codes import Codes

with absent("openvino_telemetry"):  # it reports every import over the network
    import openvino
    from openvino import opset13 as ops

_TYPES = {1: "u1", 2: "u2", 3: "u3", 4: "u4", 5: "u6", 6: "u6", 7: "u8", 8: "u8"}
"""OpenVINO's type for codes of so many bits."""


def store_codes(model: openvino.Model, codes: Mapping[str, Codes], coder: str) -> tuple[int, int]:
    """Replace the float constants that `codes` stand for; return how many, and their weights.

    The plugin computes from codes where it has kernels (linear layers of 2, 4 and 8 bits), and
    evaluates the rest of these graphs once, when it compiles the model.
    """
    count = weights = 0
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:
            continue
        if node.get_element_type() != openvino.Type.f32:
            continue
        values = torch.from_numpy(np.array(node.data))
        weight = _weight(values, codes, coder, hidden=_inputs_first(node))
        if weight is None:
            continue
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(weight.output(0))
        count += 1
        weights += node.data.size
    return count, weights


def _inputs_first(node: Any) -> bool:
    """Whether a constant is multiplied as (inputs, outputs)."""
    readers = [(r.get_node(), r.get_index()) for r in node.output(0).get_target_inputs()]
    return any(
        reader.get_type_name() == "MatMul"
        and index == 1
        and not reader.get_attributes()["transpose_b"]
        for reader, index in readers
    )


def _weight(
    values: torch.Tensor, known: Mapping[str, Codes], coder: str, *, hidden: bool
) -> Any | None:
    """Return the node that makes a weight from codes; None where none stand for it.

    `hidden` keeps the plugin from computing from codes whose rows are the weight's as it lies
    there: it takes every scale for that of an output.
    """
    for own in known.values():
        if found := rows_matched(values.flatten(1), own):
            floats = _floats(found, coder, hidden=hidden)
            return ops.reshape(floats, np.array(values.shape), False)
        if values.dim() == 2 and (found := rows_matched(values.T, own)):
            rows = ops.reshape(_floats(found, coder), np.array(values.T.shape), False)
            return ops.transpose(rows, np.array([1, 0]))
    if values.dim() == 3 and (parts := sequence_matched(values, known.values())):
        shape = np.array([1, *values.shape[1:]])
        each = [ops.reshape(_floats(part, coder), shape, False) for part in parts]
        return ops.concat(each, 0)
    return None


def _floats(codes: Codes, coder: str, *, hidden: bool = False) -> Any:
    """Return the node of (rows, groups, group) floats.

    Where `hidden`, codes are looked up in a table of themselves, for which there is no kernel.
    """
    kind = _TYPES[layout(codes, coder).bits]
    stored = _constant(codes.codes, kind)
    scale = ops.constant(codes.scale.contiguous().numpy())
    if codes.book is not None:
        book = ops.constant(codes.book.numpy())
        index = ops.convert(stored, "i32")
        return ops.multiply(ops.gather(book, index, ops.constant(0)), scale)
    zero = zeros(codes)
    if zero.dtype == torch.uint8:
        points = ops.convert(_constant(zero, kind), "f32")
    else:
        points = ops.constant(zero.contiguous().numpy())
    if hidden:
        table = ops.constant(np.arange(256, dtype=np.float32))
        whole = ops.gather(table, ops.convert(stored, "i32"), ops.constant(0))
    else:
        whole = ops.convert(stored, "f32")
    return ops.multiply(ops.subtract(whole, points), scale)


def _constant(codes: torch.Tensor, kind: str) -> Any:
    shape = openvino.Shape(list(codes.shape))
    if kind == "u8":
        return ops.constant(codes.contiguous().numpy())
    return openvino.op.Constant(getattr(openvino.Type, kind), shape, codes.flatten().tolist())
