"""Export a torch module to ONNX at fixed shapes, check the graph and save it."""

import contextlib
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from torch import Tensor, nn

from objectives.exporting.codes import describe_weights, refuses_codes
from objectives.exporting.quiet import quiet
from objectives.runtime import Export, Signature
from spaces import Encoding, Infeasible, Scope, first_line, untraced
from spaces.modules import call, flatten, plain, unflatten

Array = np.ndarray[Any, Any]

OPSET = 20
"""The newest opset that both exporters write, and the first with Gelu as one operator."""
LARGEST = 2**31 - 2**20
"""Bytes that one protobuf file can hold, minus a margin for the graph."""
TOLERANCE = 1e-3
"""Largest deviation of a graph from its module, relative to the largest output."""

# Exporters raise OnnxExporterError, a RuntimeError, and whatever the model's code raises when it
# is traced.
_MODEL_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
_ORT_ERRORS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.NotImplemented,
    errors.RuntimeException,
)


class _Failed(Exception):
    """An exporter wrote no graph, or a wrong one; the message is the reason."""


class _Positional(nn.Module):
    """A model that takes its input tensors in signature order and returns a tuple of tensors."""

    def __init__(self, model: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.model = model
        self.structure = signature.inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = plain(unflatten(tensors, self.structure))
        return tuple(flatten(call(self.model, inputs))[0])


def refuses_bits(
    encoding: Encoding,
    kinds: frozenset[str],
    library: str,
    others: Collection[tuple[int, int]] = (),
) -> str | None:
    """Reason why no processor executes integers of these widths; None if some do.

    `library` begins the reason. `others` are pairs of weight and activation bits for which the
    library has kernels, beyond 8/8 and 4/8.
    """
    bits = (encoding.weight_bits, encoding.activation_bits)
    if not encoding.quantized:
        return None
    if encoding.activation_bits == 32:
        return refuses_codes(kinds)
    if bits[0] == 32:
        weights = describe_weights(encoding) if encoding.packed else "float weights"
        return f"{library} has no kernels for {weights} with {bits[1]}-bit activations"
    if bits not in ((8, 8), (4, 8), *others):
        return f"{library} has no kernels for {bits[0]}-bit weights with {bits[1]}-bit activations"
    linear = any("Linear" in kind or kind in ("Conv1D", "MultiheadAttention") for kind in kinds)
    if bits[0] < 8 and not linear:
        return (
            f"{library} has kernels for {bits[0]}-bit weights with 8-bit activations in linear "
            "layers only, and the model has none"
        )
    if not linear and not any("Conv" in kind for kind in kinds):
        return "the model has no convolution or linear layers to quantize"
    return None


def input_arrays(signature: Signature, inputs: Any) -> dict[str, Array]:
    """Return `inputs` as contiguous arrays by their names in the graph."""
    tensors, _ = flatten(inputs)
    return {
        name: np.ascontiguousarray(tensor.detach().numpy())
        for name, tensor in zip(signature.input_names, tensors, strict=True)
    }


@contextlib.contextmanager
def exported(export: Export) -> Iterator[Path]:
    """Export the candidate in float32 to a temporary ONNX file, removed at the end of the block.

    Tracing is tried first: with torch 2.13 it takes 0.5 s for a ResNet-20 and 3 s for a 6-layer
    BERT, torch.export 10 s and 11 s, and both graphs run equally fast. torch.export follows if
    tracing fails or freezes a choice that depends on the data.

    Raises Infeasible if neither exporter writes a graph that computes what the model does.
    """
    module = _Positional(export.model, export.signature)
    module.training = export.model.training  # train() would change the model's modules
    with tempfile.TemporaryDirectory() as folder:
        yield _graph(module, export, Path(folder))


def _graph(module: nn.Module, export: Export, folder: Path) -> Path:
    """Return the file of the first exporter whose graph is correct."""
    failures: list[_Failed] = []
    for dynamo in (False, True):
        path = folder / f"{'exported' if dynamo else 'traced'}.onnx"
        try:
            _write(module, export, path, dynamo)
            _compare(module, export, path)
        except _Failed as failure:
            failures.append(failure)
        else:
            return path
    reason = f"the model cannot be exported to ONNX: {failures[0]}; {failures[1]}"
    # the exporters' errors become part of the traceback, and so of the trial's log
    details = ExceptionGroup("both exporters failed", failures)
    raise Infeasible(reason, scope=Scope.RUNTIME) from details


def _write(module: nn.Module, export: Export, path: Path, dynamo: bool) -> None:
    """Write the graph with one exporter; raises _Failed with the reason."""
    signature = export.signature
    method = "torch.export" if dynamo else "tracing"
    try:
        with quiet(Warning), torch.no_grad():  # `_compare` finds what tracing freezes
            torch.onnx.export(
                module,
                tuple(flatten(export.example)[0]),
                str(path),
                input_names=list(signature.input_names),
                output_names=list(signature.output_names),
                opset_version=OPSET,
                dynamo=dynamo,
                external_data=_exceeds_protobuf(module),
                verbose=False,
            )
    except _MODEL_ERRORS as error:
        raise _Failed(f"{method} fails, {untraced(error)}") from error


def _compare(module: nn.Module, export: Export, path: Path) -> None:
    """Raise _Failed if the graph deviates from the module on the example or on a shuffled one.

    The shuffled example has the same values in other places: other masks, lengths and ids, all of
    them valid. A graph that froze a choice made for the example deviates on it.
    """
    try:
        session = session_of(path, threads=export.target.threads)
    except _ORT_ERRORS as error:
        raise _Failed(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error
    tensors, _ = flatten(export.example)
    for batch in (tensors, _shuffled(tensors)):
        try:
            with quiet(Warning), torch.no_grad():
                expected = [t.double().numpy() for t in module(*batch)]
        except _MODEL_ERRORS:
            continue  # the model's own code refuses the shuffled values
        try:
            pairs = zip(expected, _outputs(session, export.signature, batch), strict=True)
            close = all(_close(reference, output) for reference, output in pairs)
        except _ORT_ERRORS as error:
            raise _Failed(f"ONNX Runtime cannot run the graph: {first_line(error)}") from error
        if not close:
            raise _Failed(f"the graph from {path.stem} code does not compute what the model does")


def _outputs(
    session: onnxruntime.InferenceSession, signature: Signature, batch: list[Tensor]
) -> list[Array]:
    accepted = {node.name for node in session.get_inputs()}
    pairs = zip(signature.input_names, batch, strict=True)
    feed = {name: t.contiguous().numpy() for name, t in pairs if name in accepted}
    outputs: list[Array] = session.run(list(signature.output_names), feed)
    return outputs


def _close(expected: Array, actual: Array) -> bool:
    if expected.shape != actual.shape:
        return False
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return bool(np.abs(expected - actual).max(initial=0.0) <= TOLERANCE * scale)


def _shuffled(tensors: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(t.numel(), generator=generator) for t in tensors]
    return [t.reshape(-1)[o].reshape(t.shape) for t, o in zip(tensors, orders, strict=True)]


def session_of(path: Path, *, threads: int, fold: bool = False) -> onnxruntime.InferenceSession:
    """Open a session on the CPU; with `fold`, stored weights are dequantized once, at load."""
    options = session_options(threads=threads, fold=fold)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def session_options(*, threads: int, fold: bool) -> onnxruntime.SessionOptions:
    """Return the options of a session: see `session_of`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if fold:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _exceeds_protobuf(module: nn.Module) -> bool:
    size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    return bool(size > LARGEST)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` as one file, or with a separate data file above protobuf's limit of 2 GB."""
    if model.ByteSize() <= LARGEST:
        onnx.save_model(model, str(path))
        return
    onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data")
