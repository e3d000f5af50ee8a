"""Weight codes in OpenVINO models: constants of few bits, and the nodes that read them."""

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
"""OpenVINO's type for codes, by their bits."""
_KERNELS = ("u2", "u4", "u8")
"""Types of codes with kernels in the plugin, if the zero points are of the same type."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredCodes:
    """Numbers of constants, layers and weights that a model stores as codes."""

    constants: int = 0
    """Constants stored as codes, embedding tables included."""
    unpacked: int = 0
    """Layers without a kernel for their codes, which are unpacked when the model is compiled."""
    weights: int = 0
    """Weights that the file stores as codes."""


def store_codes(model: openvino.Model, codes: Mapping[str, Codes], coder: str) -> StoredCodes:
    """Replace the float constants of a model that equal `codes`, in place.

    The plugin computes from codes where it has kernels (linear layers of 2, 4 and 8 bits). It
    unpacks the other codes once, when it compiles the model.
    """
    count = weights = 0
    unpacked: set[str] = set()
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:
            continue
        if node.get_element_type() != openvino.Type.f32:
            continue
        values = torch.from_numpy(np.array(node.data))
        replacement = _weight(values, codes, coder, hidden=_inputs_first(node))
        if replacement is None:
            continue
        weight, kernel = replacement
        for reader in readers(node):
            kind = reader.get_type_name()
            if kind != "Gather" and not (kernel and kind == "MatMul"):
                unpacked.add(reader.get_friendly_name())
        for port in list(node.output(0).get_target_inputs()):
            port.replace_source_output(weight.output(0))
        count += 1
        weights += node.data.size
    return StoredCodes(constants=count, unpacked=len(unpacked), weights=weights)


def _inputs_first(node: Any) -> bool:
    """True if a MatMul reads a constant as (inputs, outputs)."""
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
    """Return a node that computes a weight from codes, and True if a kernel can read the codes.

    None if no codes equal the weight. `hidden` hides codes whose rows are those of `values` from
    the plugin's kernels, which take every scale for that of an output.
    """
    for codes in known.values():
        if match := match_rows(values.flatten(1), codes):
            floats = _floats(match, coder, hidden=hidden)
            weight = ops.reshape(floats, np.array(values.shape), False)
            return weight, not hidden and _has_kernel(match, coder)
        if values.dim() == 2 and (match := match_rows(values.T, codes)):
            rows = ops.reshape(_floats(match, coder), np.array(values.T.shape), False)
            return ops.transpose(rows, np.array([1, 0])), _has_kernel(match, coder)
    if values.dim() == 3 and (parts := match_recurrent(values, known.values())):
        shape = np.array([1, *values.shape[1:]])
        each = [ops.reshape(_floats(part, coder), shape, False) for part in parts]
        return ops.concat(each, 0), False
    return None


def _has_kernel(codes: Codes, coder: str) -> bool:
    kind = _TYPES[layout(codes, coder).bits]
    return codes.book is None and kind in _KERNELS and zero_points(codes).dtype == torch.uint8


def _floats(codes: Codes, coder: str, *, hidden: bool = False) -> Any:
    """Return a node that computes the floats (rows, groups, group) of codes.

    If `hidden`, codes are looked up in a table of the numbers 0..255, for which there is no kernel.
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
        floats = ops.gather(table, ops.convert(stored, "i32"), ops.constant(0))
    else:
        floats = ops.convert(stored, "f32")
    return ops.multiply(ops.subtract(floats, points), scale)


def _constant(codes: torch.Tensor, kind: str) -> Any:
    shape = openvino.Shape(list(codes.shape))
    if kind == "u8":
        return ops.constant(codes.contiguous().numpy())
    return openvino.op.Constant(getattr(openvino.Type, kind), shape, codes.flatten().tolist())
