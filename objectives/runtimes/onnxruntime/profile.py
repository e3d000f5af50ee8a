"""Operations of an ONNX Runtime session, from its profile and the graph that it optimised."""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from objectives.execution import LAYERS, Kind, Operation, typical

SECONDS = 0.1
"""Seconds of runs that are profiled."""
RUNS = (8, 200)
"""Fewest and most runs that are profiled; the first WARM do not count, as they allocate memory."""
WARM = 3

_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose", "QLinearConv", "ConvInteger"})
_LINEAR = frozenset(
    {
        "MatMul",
        "Gemm",
        "FusedMatMul",
        "FusedGemm",
        "QGemm",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearMatMul",
        "MatMulNBits",
        "Attention",
        "QAttention",
    }
)
"""Products of two matrices; Attention computes three such layers and then itself."""
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_PRODUCTS = frozenset({"MultiHeadAttention", "GroupQueryAttention"})
_INTEGER = frozenset(
    {
        "QLinearConv",
        "ConvInteger",
        "QGemm",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QLinearMatMul",
        "QAttention",
        "DynamicQuantizeLSTM",
    }
)
_CONVERSIONS = frozenset(
    {
        "Cast",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ReorderInput",
        "ReorderOutput",
        "Transpose",
    }
)
_CONTROL = frozenset({"If", "Loop", "Scan"})
"""Their times contain those of their bodies' nodes."""
_PRECISIONS = {"float": "float32", "float16": "float16", "bfloat16": "bfloat16"}
_QUANTIZED_WEIGHT = {"QLinearConv": 3, "QGemm": 3, "QLinearMatMul": 3}
"""Position of the weight among the inputs; 1 for all others."""


def operations(
    path: Path, options: onnxruntime.SessionOptions, feed: Mapping[str, Any]
) -> tuple[Operation, ...]:
    """Run the graph at `path` with the profiler and return its operations."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(optimised)
        # the graph's nodes and shapes are wanted, not its weights
        for key, value in {"file_name": "weights", "min_size_in_bytes": "1024"}.items():
            key = f"session.optimized_model_external_initializers_{key}"
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        _run(session, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(str(optimised), load_external_data=False).graph
    return parsed(events, graph)


def _run(session: onnxruntime.InferenceSession, feed: Mapping[str, Any]) -> None:
    fewest, most = RUNS
    end = time.perf_counter() + SECONDS
    for done in range(most):
        if done >= fewest and time.perf_counter() > end:
            break
        session.run(None, dict(feed))


def parsed(events: Sequence[Mapping[str, Any]], graph: onnx.GraphProto) -> tuple[Operation, ...]:
    """Return the operations in a profile, with weights looked up in the optimised graph.

    The profile names the kernels, but leaves out the shapes of weights that are packed for them.
    """
    nodes = {node.name: node for node in graph.node}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event)
    return tuple(
        _operation(name, nodes.get(name), weights, of_node)
        for name, of_node in runs.items()
        if of_node[0]["args"]["op_name"] not in _CONTROL
    )


def _operation(
    name: str,
    node: onnx.NodeProto | None,
    weights: Mapping[str, onnx.TensorProto],
    events: Sequence[Mapping[str, Any]],
) -> Operation:
    arguments = events[-1]["args"]
    type_name = arguments["op_name"]
    weight = _weight(type_name, node, weights)
    kind = _kind(type_name, known=node is not None, constant=weight is not None)
    attributes = (
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} if node else {}
    )
    durations = [1e-6 * event["dur"] for event in events[WARM:] or events]
    return Operation(
        name=name,
        kind=kind,
        precision=_precision(type_name, arguments, attributes),
        multiply_adds=_multiply_adds(type_name, kind, arguments, weight, attributes),
        seconds=typical(durations),
        weight_bits=attributes.get("bits")
        or (_bits(weight) if weight is not None and kind in LAYERS else None),
    )


def _weight(
    type_name: str, node: onnx.NodeProto | None, weights: Mapping[str, onnx.TensorProto]
) -> onnx.TensorProto | None:
    position = _QUANTIZED_WEIGHT.get(type_name, 1)
    if node is None or len(node.input) <= position:
        return None
    return weights.get(node.input[position])


def _kind(type_name: str, *, known: bool, constant: bool) -> Kind:
    if type_name in _CONVOLUTIONS:
        return Kind.CONVOLUTION
    if type_name in _LINEAR:
        return Kind.LINEAR if constant or not known else Kind.PRODUCT
    if type_name in _RECURRENT:
        return Kind.RECURRENT
    if type_name in _PRODUCTS:
        return Kind.PRODUCT
    return Kind.CONVERSION if type_name in _CONVERSIONS else Kind.OTHER


def _precision(
    type_name: str, arguments: Mapping[str, Any], attributes: Mapping[str, Any]
) -> str | None:
    # at accuracy level 4 the kernel rounds its activations to 8-bit integers
    if type_name in _INTEGER or attributes.get("accuracy_level") == 4:
        return "int8"
    types = [name for shape in arguments.get("input_type_shape", ()) for name in shape]
    return _PRECISIONS.get(types[0]) if types else None


def _multiply_adds(
    type_name: str,
    kind: Kind,
    arguments: Mapping[str, Any],
    weight: onnx.TensorProto | None,
    attributes: Mapping[str, Any],
) -> int | None:
    """Return the multiply-adds of a node; None if its shapes do not tell.

    Of Attention, those of its three linear layers alone.
    """
    inputs, outputs = (_shapes(arguments, f"{side}_type_shape") for side in ("input", "output"))
    if not inputs or not outputs:
        return None
    if kind is Kind.CONVOLUTION and weight is not None:
        # a weight is (outputs, inputs of a group, ...), or transposed (inputs, ...)
        size = math.prod(inputs[0] if type_name == "ConvTranspose" else outputs[0])
        return int(size * math.prod(weight.dims) // weight.dims[0])
    if type_name in ("Attention", "QAttention"):
        return int(math.prod(inputs[0]) * weight.dims[-1]) if weight is not None else None
    if type_name in _LINEAR and len(inputs[0]) > 1:
        columns = inputs[0][-2] if attributes.get("transA") else inputs[0][-1]
        return math.prod(outputs[0]) * columns
    if type_name == "MultiHeadAttention" and len(inputs) > 1 and len(inputs[1]) > 1:
        return 2 * math.prod(inputs[0]) * inputs[1][1]
    return None


def _shapes(arguments: Mapping[str, Any], key: str) -> list[list[int]]:
    return [shape for entry in arguments.get(key, ()) for shape in entry.values()]


def _bits(weight: onnx.TensorProto) -> int:
    return int(8 * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)).itemsize)
