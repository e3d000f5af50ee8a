"""Weights in codes in an OpenVINO model: constants of few bits, and the graph that reads them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from objectives.runtimes._codes import layout, rows_matched, zeros
from objectives.runtimes._quiet import absent
from spaces.quantize._codes import Codes

with absent("openvino_telemetry"):  # it reports every import over the network
    import openvino
    from openvino import opset13 as ops

_TYPES = {1: "u1", 2: "u2", 3: "u3", 4: "u4", 5: "u6", 6: "u6", 7: "u8", 8: "u8"}
"""OpenVINO's type for codes of so many bits."""


def store_codes(model: openvino.Model, codes: Mapping[str, Codes], coder: str) -> int:
    """Replace the float constants that `codes` stand for; return how many.

    The plugin computes from codes where it has kernels (linear layers of 2, 4 and 8 bits), and
    evaluates the rest of these graphs once, when it compiles the model.
    """
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:
            continue
        if node.get_element_type() != openvino.Type.f32:
            continue
        weight = _weight(torch.from_numpy(np.array(node.data)), codes, coder)
        if weight is None:
            continue
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(weight.output(0))
        count += 1
    return count


def _weight(values: torch.Tensor, known: Mapping[str, Codes], coder: str) -> Any | None:
    """Return the node that makes a weight from codes; None where none stand for it."""
    for own in known.values():
        if found := rows_matched(values.flatten(1), own):
            return ops.reshape(_floats(found, coder), np.array(values.shape), False)
        if values.dim() == 2 and (found := rows_matched(values.T, own)):
            rows = ops.reshape(_floats(found, coder), np.array(values.T.shape), False)
            return ops.transpose(rows, np.array([1, 0]))
    return None


def _floats(codes: Codes, coder: str) -> Any:
    """Return the node of (rows, groups, group) floats."""
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
    return ops.multiply(ops.subtract(ops.convert(stored, "f32"), points), scale)


def _constant(codes: torch.Tensor, kind: str) -> Any:
    shape = openvino.Shape(list(codes.shape))
    if kind == "u8":
        return ops.constant(codes.contiguous().numpy())
    return openvino.op.Constant(getattr(openvino.Type, kind), shape, codes.flatten().tolist())
