"""Operations of a PyTorch function, from the events of PyTorch's profiler, on CPUs and GPUs."""

import contextlib
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile, record_function

from objectives.execution import MULTIPLYING, Kind, Operation, typical

SECONDS = 0.15
"""Seconds after which no further run is profiled."""
RUNS = (3, 6)
"""Fewest and most runs that are profiled."""
LAYER = "layer: "
"""Start of the name of an event that encloses the events of a module."""

_PRECISIONS = {
    "float": "float32",
    "c10::BFloat16": "bfloat16",
    "c10::Half": "float16",
    "c10::Float8_e4m3fn": "float8",
    "signed char": "int8",
    "unsigned char": "int8",
}
_EIGHT_BITS = ("int8", "float8")
_FUSING = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Modules that compute otherwise if hooks are attached to them or their parts."""
_RECURRENT = ("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu", "quantized::lstm")
_CONVERSIONS = ("aten::to", "aten::_to_copy", "aten::copy_", "aten::contiguous")
_TRANSPOSED = 6
"""Position of the flag among the arguments of aten::_convolution."""
_CUDA_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclasses.dataclass(eq=False)
class Event:
    """An event of the profiler's trace with those that it encloses."""

    name: str
    start: float
    duration: float
    dims: Sequence[Sequence[int]] = ()
    types: Sequence[str] = ()
    values: Sequence[str] = ()
    """Arguments that are not tensors, as text; those of tensors are empty."""
    identity: int | None = None
    """Number by which kernels name the event that launched them."""
    layer: str = ""
    """Innermost module that it belongs to."""
    parts: list["Event"] = dataclasses.field(default_factory=list)

    def walk(self) -> Iterator["Event"]:
        """Yield the event and all within it."""
        yield self
        for part in self.parts:
            yield from part.walk()


def operations(
    run: Callable[[], Any], model: nn.Module | None, device: torch.device
) -> tuple[Operation, ...] | None:
    """Call `run` under the profiler and return the operations of one call.

    `model` names the layers, if `run` calls its modules. Where the profiler sees no kernels of a
    GPU, as where another one uses its counters, the operations of a module have no times, and there
    are none of other functions, for which None is returned.
    """
    timed = True
    outputs: dict[str, int] = {}
    runs: list[list[Operation]] = []
    fewest, most = RUNS
    with _named_layers(model, outputs) if model is not None else contextlib.nullcontext():
        run()
        end = time.perf_counter() + SECONDS
        while len(runs) < most and (len(runs) < fewest or time.perf_counter() < end):
            trace = _trace(run, device)
            if device.type != "cpu" and not any(e.get("cat") in _CUDA_WORK for e in trace):
                if model is None:
                    return None
                timed = False
            runs.append(parsed(trace, outputs))
    alike = [series for series in runs if len(series) == len(runs[-1])]
    return tuple(
        dataclasses.replace(
            same[-1], seconds=typical([o.seconds or 0.0 for o in same]) if timed else None
        )
        for same in zip(*alike, strict=True)
    )


def _trace(run: Callable[[], Any], device: torch.device) -> list[dict[str, Any]]:
    """Return the events of one call as PyTorch exports them for Chrome."""
    on_gpu = device.type != "cpu"
    with profile(record_shapes=True, use_device=device.type if on_gpu else None) as profiler:
        run()
        if on_gpu:
            torch.accelerator.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


@contextlib.contextmanager
def _named_layers(model: nn.Module, outputs: dict[str, int]) -> Iterator[None]:
    """Let each module's call be an event; store the number of its outputs' elements by name."""
    hooks = []
    fused = {id(m) for f in model.modules() if isinstance(f, _FUSING) for m in f.modules()}
    for name, module in model.named_modules():
        if id(module) in fused:
            continue
        scopes: list[record_function] = []

        def enter(*_: Any, name: str = name, scopes: list[record_function] = scopes) -> None:
            scopes.append(record_function(LAYER + name))
            scopes[-1].__enter__()  # type: ignore[no-untyped-call]

        def leave(
            module: nn.Module,
            inputs: Any,
            output: Any,
            name: str = name,
            scopes: list[record_function] = scopes,
        ) -> None:
            del module, inputs
            scopes.pop().__exit__(None, None, None)
            if isinstance(output, Tensor):
                outputs[name] = output.numel()

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def parsed(trace: Sequence[Mapping[str, Any]], outputs: Mapping[str, int]) -> list[Operation]:
    """Return the operations in the trace of one call, with the elements of layers' outputs.

    An operation is what Python or a package calls: its time is that of the kernels it launched, or
    without kernels the time until it returns. Kernels that belong to no such call, as those of
    compiled packages, are operations themselves.
    """
    roots = _roots(trace)
    kernels = [event for event in trace if event.get("cat") in _CUDA_WORK]
    launched: dict[int | None, float] = {}
    for kernel in kernels:
        identity = kernel["args"].get("External id")
        launched[identity] = launched.get(identity, 0.0) + kernel["dur"]
    found = [_operation(root, launched if kernels else None, outputs) for root in roots]
    known = {event.identity for root in roots for event in root.walk()}
    found += [_of_kernel(k) for k in kernels if k["args"].get("External id") not in known]
    return _with_conversions([o for o in found if o.seconds], {r.layer for r in roots})


def _roots(trace: Sequence[Mapping[str, Any]]) -> list[Event]:
    """Return the outermost operators of the trace, each with its parts."""
    entries = [e for e in trace if e.get("cat") in ("cpu_op", "user_annotation")]
    entries.sort(key=lambda e: (str(e.get("tid")), e["ts"], -e["dur"]))
    roots: list[Event] = []
    open_events: list[tuple[Mapping[str, Any], Event | None, str]] = []
    for entry in entries:
        while open_events and not _encloses(open_events[-1][0], entry):
            open_events.pop()
        _, parent, layer = open_events[-1] if open_events else (None, None, "")
        if entry["cat"] == "user_annotation":
            if entry["name"].startswith(LAYER):
                open_events.append((entry, parent, entry["name"].removeprefix(LAYER) or layer))
            continue
        arguments = entry.get("args", {})
        event = Event(
            name=entry["name"],
            start=entry["ts"],
            duration=entry["dur"],
            dims=arguments.get("Input Dims", ()),
            types=arguments.get("Input type", ()),
            values=arguments.get("Concrete Inputs", ()),
            identity=arguments.get("External id"),
            layer=layer,
        )
        (roots if parent is None else parent.parts).append(event)
        open_events.append((entry, event, layer))
    return roots


def _encloses(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    return bool(outer.get("tid") == inner.get("tid") and inner["ts"] < outer["ts"] + outer["dur"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Product:
    """What an operator multiplies."""

    kind: Kind
    precision: str | None
    multiply_adds: int | None
    weight_bits: int | None = None


def _operation(
    root: Event, launched: Mapping[int | None, float] | None, outputs: Mapping[str, int]
) -> Operation:
    products = list(_products(root, outputs))
    microseconds = root.duration
    if launched is not None:
        microseconds = sum(launched.get(event.identity, 0.0) for event in root.walk())
    counts = [product.multiply_adds for product in products]
    first = products[0] if products else None
    kind = first.kind if first else _kind(root.name)
    return Operation(
        name=root.layer or root.name,
        kind=kind,
        precision=first.precision if first else None,
        multiply_adds=sum(c or 0 for c in counts) if counts and None not in counts else None,
        seconds=1e-6 * microseconds,
        weight_bits=first.weight_bits if first else None,
    )


def _kind(name: str) -> Kind:
    if name.startswith(_RECURRENT):
        return Kind.RECURRENT
    return Kind.CONVERSION if name in _CONVERSIONS else Kind.OTHER


def _products(event: Event, outputs: Mapping[str, int]) -> Iterator[_Product]:
    """Yield the products of an operator; the parts of one that is known are not looked at."""
    product = _product(event, outputs)
    if product is not None:
        yield product
        return
    for part in event.parts:
        yield from _products(part, outputs)


def _product(event: Event, outputs: Mapping[str, int]) -> _Product | None:
    """Return what a known operator multiplies, None for others."""
    name, dims = event.name, event.dims
    if name == "aten::_convolution" and len(dims) > 1:
        return _layer(event, Kind.CONVOLUTION, 0, _convolution(event, outputs))
    if name in ("aten::linear", "aten::_scaled_mm", "aten::_int_mm", "aten::mm"):
        transposed = name == "aten::linear"
        columns = dims[1][0 if transposed else -1]
        return _layer(event, Kind.LINEAR, 0, math.prod(dims[0]) * columns)
    if name == "aten::addmm":
        return _layer(event, Kind.LINEAR, 1, math.prod(dims[1]) * dims[2][-1])
    if name == "quantized::linear_dynamic":
        size = outputs.get(event.layer)
        count = size * dims[0][-1] if size is not None else None
        return _Product(kind=Kind.LINEAR, precision="int8", multiply_adds=count, weight_bits=8)
    if name == "aten::_weight_int8pack_mm":
        return _layer(event, Kind.LINEAR, 0, math.prod(dims[0]) * dims[1][0], 8)
    if name.startswith("aten::_weight_int4pack_mm"):
        return _layer(event, Kind.LINEAR, 0, math.prod(dims[0]) * dims[3][1], 4)
    if name in ("aten::bmm", "aten::baddbmm"):
        first = int(name == "aten::baddbmm")
        return _layer(event, Kind.PRODUCT, first, math.prod(dims[first]) * dims[first + 1][-1])
    if name == "aten::scaled_dot_product_attention":
        return _layer(event, Kind.PRODUCT, 0, 2 * math.prod(dims[0]) * dims[1][-2])
    return None


def _layer(
    event: Event, kind: Kind, position: int, count: int | None, weight_bits: int | None = None
) -> _Product:
    """Return a product whose activations are the operator's input at `position`."""
    precision = _PRECISIONS.get(event.types[position])
    bits = {"float32": 32, "bfloat16": 16, "float16": 16, "float8": 8, "int8": 8}
    return _Product(
        kind=kind,
        precision=precision,
        multiply_adds=count,
        weight_bits=weight_bits or bits.get(precision or ""),
    )


def _convolution(event: Event, outputs: Mapping[str, int]) -> int | None:
    """Return the multiply-adds of a convolution from the elements of its layer's output.

    A weight is (outputs, inputs of a group, ...); if transposed, each input element meets a row.
    """
    inputs, weight = event.dims[:2]
    transposed = len(event.values) > _TRANSPOSED and event.values[_TRANSPOSED] == "True"
    size = math.prod(inputs) if transposed else outputs.get(event.layer)
    return size * math.prod(weight) // weight[0] if size is not None else None


def _of_kernel(kernel: Mapping[str, Any]) -> Operation:
    """Return a kernel of a compiled package as an operation, by its name alone."""
    name = str(kernel["name"])
    lower = name.lower()
    kind = next((kind for kind, words in _KERNELS if any(w in lower for w in words)), Kind.OTHER)
    return Operation(
        name=name[:80],
        kind=kind,
        precision=_named_precision(lower) if kind in MULTIPLYING else None,
        seconds=1e-6 * kernel["dur"],
    )


_KERNELS = (
    (Kind.CONVERSION, ("nchwtonhwc", "nhwctonchw", "memcpy", "triton_poi_fused__to_copy_")),
    (Kind.OTHER, ("triton_poi", "triton_red", "triton_per", "splitkreduce")),
    (Kind.PRODUCT, ("flash", "fmha", "attention")),
    (Kind.CONVOLUTION, ("fprop", "conv", "implicit_gemm", "cudnn")),
    (Kind.LINEAR, ("gemm", "cutlass", "nvjet", "triton_tem", "cublas")),
)
"""Parts of kernels' names by their kind; the first that fits counts."""
_NAMED = (
    ("float8", ("e4m3", "fp8", "_qqtst", "f8f8")),
    ("int8", ("i8816", "i16832", "i161616", "gemm_s8", "s8_s8", "s8s8", "int8", "imma")),
    ("bfloat16", ("bf16", "bfloat16", "_tst_")),
    ("float16", ("f16f16", "_f16", "fp16", "_h884", "h16816", "hgemm", "half", "_hsh_")),
    ("tf32", ("tf32", "s1688")),
    ("float32", ("f32f32", "sgemm", "_sss_", "float32", "fp32")),
)
"""Parts of kernels' names by the type of their factors; the first that fits counts."""


def _named_precision(name: str) -> str | None:
    return next((p for p, parts in _NAMED if any(part in name for part in parts)), None)


def _with_conversions(found: Sequence[Operation], layers: set[str]) -> list[Operation]:
    """Return the operations with all that an 8-bit layer does besides its product as conversions.

    Such a layer scales and rounds its input, and scales its output.
    """
    rounding = {o.name for o in found if o.precision in _EIGHT_BITS and o.name in layers}
    return [
        dataclasses.replace(o, kind=Kind.CONVERSION)
        if o.name in rounding and o.kind is Kind.OTHER
        else o
        for o in found
    ]
