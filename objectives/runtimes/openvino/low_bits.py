"""Weights in codes in an OpenVINO model: constants of few bits, and the graph that reads them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from objectives.exporting import layout, match_recurrent, match_rows, without_module, zero_points
from objectives.runtimes.openvino.graphs import readers
from spaces.modules import Codes

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino
    from openvino import opset13 as ops

_TYPES = {1: "u1", 2: "u2", 3: "u3", 4: "u4", 5: "u6", 6: "u6", 7: "u8", 8: "u8"}
"""OpenVINO's type for codes of so many bits."""


_KERNELS = ("u2", "u4", "u8")
"""Types of codes from which the plugin multiplies, if their zero points are of the same type."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """How many constants were given codes, and how they are executed."""

    constants: int = 0
    """All of them, embedding tables included."""
    unpacked: int = 0
    """Layers without a kernel for their codes, which are unpacked when the model is compiled."""
    weights: int = 0
    """Weights that codes stand for in the file."""


def store_codes(model: openvino.Model, codes: Mapping[str, Codes], coder: str) -> Placed:
    """Replace the float constants that `codes` stand for; return how many.

    The plugin computes from codes where it has kernels (linear layers of 2, 4 and 8 bits), and
    evaluates the rest of these graphs once, when it compiles the model.
    """
    count = weights = 0
    slow: set[str] = set()
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:
            continue
        if node.get_element_type() != openvino.Type.f32:
            continue
        values = torch.from_numpy(np.array(node.data))
        found = _weight(values, codes, coder, hidden=_inputs_first(node))
        if found is None:
            continue
        weight, kernel = found
        for reader in readers(node):
            kind = reader.get_type_name()
            if kind != "Gather" and not (kernel and kind == "MatMul"):
                slow.add(reader.get_friendly_name())
        for port in list(node.output(0).get_target_inputs()):
            port.replace_source_output(weight.output(0))
        count += 1
        weights += node.data.size
    return Placed(constants=count, unpacked=len(slow), weights=weights)


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
) -> tuple[Any, bool] | None:
    """Return the node that makes a weight from codes, and whether a kernel could read them.

    None where no codes stand for it. `hidden` keeps the plugin from computing from codes whose
    rows are the weight's as it lies there: it takes every scale for that of an output.
    """
    for own in known.values():
        if found := match_rows(values.flatten(1), own):
            floats = _floats(found, coder, hidden=hidden)
            whole = ops.reshape(floats, np.array(values.shape), False)
            return whole, not hidden and _has_kernel(found, coder)
        if values.dim() == 2 and (found := match_rows(values.T, own)):
            rows = ops.reshape(_floats(found, coder), np.array(values.T.shape), False)
            return ops.transpose(rows, np.array([1, 0])), _has_kernel(found, coder)
    if values.dim() == 3 and (parts := match_recurrent(values, known.values())):
        shape = np.array([1, *values.shape[1:]])
        each = [ops.reshape(_floats(part, coder), shape, False) for part in parts]
        return ops.concat(each, 0), False
    return None


def _has_kernel(codes: Codes, coder: str) -> bool:
    kind = _TYPES[layout(codes, coder).bits]
    return codes.book is None and kind in _KERNELS and zero_points(codes).dtype == torch.uint8


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
    zero = zero_points(codes)
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
