"""ONNX functions, stored in the model file, that unpack weights from codes."""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from objectives.exporting import onnx_graphs
from spaces.modules import planes

DOMAIN = "paretune"


def function_name(bits: int, *, booked: bool) -> str:
    """Return the name of the function for codes of `bits` bits; `booked` is true for codebooks."""
    return f"{'Lookup' if booked else 'Unpack'}{bits}"


def function_of(bits: int, *, booked: bool) -> onnx.FunctionProto:
    """Return a function (bit planes of codes, scale, zero points or codebook) -> weight.

    Its attributes are `grid`, the shape (rows, groups, group) of the codes, and `shape`, that of
    the weight. All inputs are constants, so a runtime evaluates it once, when it loads the file.
    """
    body = _Body()
    widths = planes(bits)
    inputs = [f"plane{i}" for i in range(len(widths))]
    body.reference("grid", "grid")
    body.reference("shape", "shape")
    body.constant("flat", np.array([-1], np.int64))
    codes = body.codes(inputs, widths)
    if booked:
        index = body.add("Cast", [body.add("Reshape", [codes, "grid"])], to=onnx.TensorProto.INT32)
        values = body.add("Gather", ["zero", index])
    else:
        floats = body.add("Cast", [codes], to=onnx.TensorProto.FLOAT)
        zero = body.add("Cast", ["zero"], to=onnx.TensorProto.FLOAT)
        values = body.add("Sub", [body.add("Reshape", [floats, "grid"]), zero])
    scaled = body.add("Mul", [values, "scale"])
    body.nodes.append(helper.make_node("Reshape", [scaled, "shape"], ["weight"]))
    return helper.make_function(
        DOMAIN,
        function_name(bits, booked=booked),
        [*inputs, "scale", "zero"],
        ["weight"],
        body.nodes,
        [helper.make_opsetid("", onnx_graphs.OPSET)],
        attributes=["grid", "shape"],
    )


class _Body:
    """Builder of a function's nodes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def add(self, kind: str, inputs: list[str], **options: int | str) -> str:
        """Add a node with one output; return the output's name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **options))
        return name

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """Add a constant; return its name."""
        tensor = numpy_helper.from_array(value)
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def reference(self, name: str, attribute: str) -> None:
        """Add an integer constant whose value is an attribute of the call."""
        node = helper.make_node("Constant", [], [name])
        reference = onnx.AttributeProto(
            name="value_ints", ref_attr_name=attribute, type=onnx.AttributeProto.INTS
        )
        node.attribute.append(reference)
        self.nodes.append(node)

    def codes(self, inputs: list[str], widths: tuple[int, ...]) -> str:
        """Add the nodes that unpack bit planes and join them; return the name of the codes."""
        self.constant("start", np.array([0], np.int64))
        count = self.add("ReduceProd", ["grid"], keepdims=1)
        joined, shift = "", 0
        for name, width in zip(inputs, widths, strict=True):
            part = self._plane(name, width, count)
            if shift:
                by = self.constant(f"shift{shift}", np.array([shift], np.uint8))
                part = self.add("BitShift", [part, by], direction="LEFT")
            joined = self.add("BitwiseOr", [joined, part]) if joined else part
            shift += width
        return joined

    def _plane(self, name: str, width: int, count: str) -> str:
        if width == 8:
            return name
        places = self.constant(f"places{width}", np.arange(0, 8, width, dtype=np.uint8))
        mask = self.constant(f"mask{width}", np.array([2**width - 1], np.uint8))
        column = self.add("Unsqueeze", [name, "flat"])
        shifted = self.add("BitShift", [column, places], direction="RIGHT")
        flat = self.add("Reshape", [self.add("BitwiseAnd", [shifted, mask]), "flat"])
        return self.add("Slice", [flat, "start", count])
