"""Operations of a compiled OpenVINO model, from its execution graph and performance counters."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives.execution import Kind, Operation
from objectives.exporting import without_module

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino

SECONDS = 0.15
"""Seconds after which no further window of runs begins."""
WARM = 5
"""Runs before the first window, in which memory is allocated."""
HALF = 0.5
"""What is added to means that are rounded down, and the mean of what is below one, microseconds."""
FEWEST, WINDOWS = 3, 6
"""Fewest and most windows of runs; each has as many runs as all before it together."""

_KINDS = {
    "Convolution": Kind.CONVOLUTION,
    "Deconvolution": Kind.CONVOLUTION,
    "DeformableConvolution": Kind.CONVOLUTION,
    "FullyConnected": Kind.LINEAR,
    "MLP": Kind.LINEAR,
    "QKVProjection": Kind.LINEAR,
    "RNNSeq": Kind.RECURRENT,
    "RNNCell": Kind.RECURRENT,
    "MatMul": Kind.PRODUCT,
    "ScaledDotProductAttention": Kind.PRODUCT,
    "Convert": Kind.CONVERSION,
    "Reorder": Kind.CONVERSION,
    "Transpose": Kind.CONVERSION,
    "FakeQuantize": Kind.CONVERSION,
}
_DATA = frozenset({"Input", "Const", "Output"})
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_INTEGERS = ("i8", "u8", "i4", "u4")


def operations(
    path: Path, settings: Mapping[str, Any], feed: Mapping[str, Any]
) -> tuple[Operation, ...]:
    """Compile the model at `path` with counters, run it and return its operations."""
    compiled = openvino.Core().compile_model(str(path), "CPU", {**settings, "PERF_COUNT": True})
    request = compiled.create_infer_request()
    for name, tensor in feed.items():
        request.set_tensor(name, tensor)
    seconds = _seconds(compiled, request)
    rounds = bool(settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return parsed(compiled.get_runtime_model(), seconds, rounds=rounds)


def _seconds(compiled: Any, request: Any) -> dict[str, float]:
    """Return the seconds of each executed node: the median of its means in windows of runs.

    Counters are means since the start in whole microseconds and cannot be reset. From two readings
    follows the mean between them, exact to about a microsecond as each window doubles the runs. The
    median leaves out windows in which other work took the processor away from the node.
    """
    start, runs = time.perf_counter(), WARM
    _run(request, runs)
    before, windows = _microseconds(compiled), list[dict[str, float]]()
    names = set(before)
    while len(windows) < FEWEST or (
        len(windows) < WINDOWS and time.perf_counter() - start < SECONDS
    ):
        _run(request, runs)
        after = _microseconds(compiled)
        names |= set(after)
        windows.append(
            {k: 1e-6 * max(0.0, 2 * after.get(k, HALF) - before.get(k, HALF)) for k in names}
        )
        before, runs = after, 2 * runs
    return {k: statistics.median(window.get(k, 0.0) for window in windows) for k in names}


def _run(request: Any, runs: int) -> None:
    for _ in range(runs):
        request.infer()


def _microseconds(compiled: Any) -> dict[str, float]:
    """Return the mean of all runs so far of each node that took a microsecond or more.

    Means are rounded down, to which half a microsecond is added. OpenVINO says of a node whose mean
    is below one that it was not executed, so a node may appear in one reading and not in another.
    """
    times = {
        node.get_friendly_name(): _info(node, "execTimeMcs")
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    return {name: int(mean) + HALF for name, mean in times.items() if mean.isdigit()}


def parsed(
    model: Any, seconds: Mapping[str, float], *, rounds: bool = False
) -> tuple[Operation, ...]:
    """Return the operations of an execution graph, with the seconds of executed nodes by name.

    Other nodes were folded at load or change nothing in memory. `rounds` means that layers with
    integer weights may round their activations to integers.
    """
    return tuple(
        _operation(node, seconds[name], rounds)
        for node in model.get_ordered_ops()
        if (name := node.get_friendly_name()) in seconds and _info(node, "layerType") not in _DATA
    )


def _operation(node: Any, seconds: float, rounds: bool) -> Operation:
    type_name = _info(node, "layerType")
    kind = _KINDS.get(type_name, Kind.OTHER)
    inputs = [_type(port) for port in node.inputs()]
    if kind is Kind.OTHER and _only_quantizes(node, inputs):
        kind = Kind.CONVERSION
    weighted = kind in (Kind.CONVOLUTION, Kind.LINEAR) and len(inputs) > 1
    return Operation(
        name=node.get_friendly_name(),
        kind=kind,
        precision=_precision(node, inputs, rounds),
        multiply_adds=_multiply_adds(node, kind),
        seconds=seconds,
        weight_bits=_bits(inputs[1]) if weighted else None,
    )


def _only_quantizes(node: Any, inputs: Sequence[str]) -> bool:
    """True for a fused subgraph that consists of one rounding of floats to 8-bit integers."""
    outputs = _info(node, "outputPrecisions").lower().split(",")
    names = _info(node, "originalLayersNames").split(",")
    rounds = all(name.rsplit("/", 1)[-1].startswith("fq_") for name in names)
    return rounds and set(outputs) <= {"u8", "i8"} and set(inputs) <= {"f32", "bf16", "f16"}


def _precision(node: Any, inputs: Sequence[str], rounds: bool) -> str | None:
    """Return the type in which a node multiplies, None if the graph does not tell.

    A layer with integer weights multiplies in the type of its activations. If it may round them,
    only the kernel's name can tell that it does.
    """
    if not inputs:
        return None
    if inputs[0] in _INTEGERS or _info(node, "primitiveType").endswith(("_i8", "_I8")):
        return "int8"
    if rounds and len(inputs) > 1 and inputs[1] in _INTEGERS:
        return None
    return _PRECISIONS.get(inputs[0])


def _multiply_adds(node: Any, kind: Kind) -> int | None:
    """Return the multiply-adds of a node; None if its shapes do not tell."""
    inputs = [[int(size) for size in port.get_shape()] for port in node.inputs()]
    if len(inputs) < 2 or not inputs[0]:
        return None
    type_name = _info(node, "layerType")
    output = [int(size) for size in node.outputs()[0].get_shape()]
    if type_name == "Deconvolution":
        return math.prod(inputs[0]) * math.prod(inputs[1]) // inputs[0][1]
    if kind is Kind.CONVOLUTION:
        # each output needs the weights of one output channel, grouped or not
        return math.prod(output) * math.prod(inputs[1]) // output[1]
    if type_name in ("FullyConnected", "MatMul"):
        return math.prod(output) * inputs[0][-1]
    if type_name == "ScaledDotProductAttention":
        return 2 * math.prod(inputs[0]) * inputs[1][-2]
    return None


def _type(port: Any) -> str:
    return str(port.get_element_type().to_string())


def _bits(type_name: str) -> int | None:
    """Return the bits of an element type such as `u8`, `i4`, `f32`, `bf16`."""
    digits = type_name.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) if digits.isdigit() else None


def _info(node: Any, key: str) -> str:
    """Return an entry of a node's runtime information as text; empty if there is none."""
    entries = node.get_rt_info()
    if key not in entries:
        return ""
    value = entries[key]
    return str(value if isinstance(value, str) else value.astype(str))
