"""OpenVINO: export a model to its intermediate representation and run it on the CPU."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectives.execution import Operation
from objectives.exporting import (
    CODED,
    coded_weights,
    describe_weights,
    expressions,
    onnx_graphs,
    readable,
    refuses_calibration,
    remarks,
    without_module,
)
from objectives.host import flags
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.runtimes.openvino import execution_graph, int8, low_bits, snippets
from objectives.runtimes.openvino.graphs import count_layers, renumber
from objectives.runtimes.openvino.sparse import store_sparse
from objectives.target import Target
from spaces import Encoding, Infeasible, Precision, Task
from spaces.modules import Codes

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino

FILE = "model.xml"


class _Request(Program):
    """Program of a compiled model, with one inference request for all runs."""

    def __init__(
        self,
        signature: Signature,
        target: Target,
        folder: Path,
        *,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(signature, target, folder)
        self._settings = settings
        compiled = openvino.Core().compile_model(str(folder / FILE), "CPU", settings)
        ports = {name: port for port in compiled.inputs for name in port.names}
        self._ports = [
            (i, ports[name]) for i, name in enumerate(signature.input_names) if name in ports
        ]
        self._request = compiled.create_infer_request()
        self._outputs = compiled.outputs

    def feed(self, tensors: list[Tensor]) -> list[tuple[Any, openvino.Tensor]]:
        """Return the ports of the inputs, each with a tensor that shares the input's memory."""
        arrays = [(port, np.ascontiguousarray(tensors[i].numpy())) for i, port in self._ports]
        return [(port, openvino.Tensor(array, shared_memory=True)) for port, array in arrays]

    def run(self, feed: list[tuple[Any, openvino.Tensor]]) -> openvino.InferRequest:
        """Execute one batch; its outputs stay in the request until the next run."""
        for port, tensor in feed:
            self._request.set_tensor(port, tensor)
        self._request.infer()
        return self._request

    def read(self, raw: openvino.InferRequest) -> list[Tensor]:
        """Return copies of the outputs."""
        return [torch.from_numpy(raw.get_tensor(port).data.copy()) for port in self._outputs]

    def operations(self, feed: list[tuple[Any, openvino.Tensor]]) -> tuple[Operation, ...]:
        """Compile the file once more with performance counters and run that."""
        arrays = {port.get_any_name(): tensor for port, tensor in feed}
        with readable(self.folder, FILE) as folder:
            return execution_graph.operations(folder / FILE, self._settings, arrays)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Openvino(Runtime):
    """OpenVINO's CPU plugin; half precision and integers if the processor computes in them.

    Models are converted from ONNX files. Converting the module directly also traces it, takes as
    long or longer (ResNet-20 4.6 s instead of 0.6 s, 6-layer BERT 4.5 s instead of 4.7 s), runs at
    the same speed and loses the names of inputs and outputs.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = (
        "onnx",
        "openvino",
        "nncf",
    )
    devices = frozenset({"cpu"})

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why there are no kernels for `encoding`; None if there are."""
        del target
        return (
            _lacks(encoding.dtype)
            or onnx_graphs.refuses_bits(encoding, kinds, "OpenVINO")
            or int8.lacks_calibration(encoding)
            or (_refuses_dynamic(encoding) if _has_dynamic_activations(encoding) else None)
        )

    def export(self, export: Export) -> dict[str, Any]:
        """Write model.xml and model.bin; return notes on their encoding.

        Raises ValueError if 8-bit activations have no calibration batches.
        """
        if export.encoding.activation_bits == 8 and not export.calibration:
            raise ValueError("8-bit activations need calibration batches, got none")
        half = export.encoding.dtype != "float32"
        encoded = coded_weights(export) if export.encoding.packed else None
        if encoded:
            export = dataclasses.replace(export, model=encoded.model)
        with onnx_graphs.exported(export) as path:
            model = openvino.Core().read_model(str(path))
            notes: dict[str, Any] = {"scheme": export.encoding.dtype}
            if encoded:
                notes |= _store_codes(export, encoded.codes, model)
            elif export.encoding.quantized:
                if export.calibration and snippets.crashes(model, path, snippets.CALIBRATING):
                    raise Infeasible(snippets.UNCALIBRATED)
                model, scheme = int8.encode(export, model)
                notes["scheme"] = scheme
            notes |= count_layers(model, export.encoding)
            if not (encoded or export.encoding.quantized):
                notes["sparse_weights"] = store_sparse(model)
            elif "amx_int8" in flags():
                notes["decompression_rate"] = _RATE
            renumber(model)
            openvino.save_model(model, str(export.folder / FILE), compress_to_fp16=half)
            notes["dtype"] = export.encoding.dtype
            notes["dynamic_activations"] = _has_dynamic_activations(export.encoding)
            settings = _settings(export.target, notes)
            if snippets.crashes(model, export.folder / FILE, settings):
                notes["snippets"] = False
            del model  # it maps the ONNX file, which is removed at the end of the block
        return notes

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Compile the model for one stream of `target.threads` threads."""
        del task
        return _Request(signature, target, folder, settings=_settings(target, notes))

    def standalone(self, signature: Signature, target: Target, notes: Mapping[str, Any]) -> str:
        """Return lines with the settings that the artifact was measured with."""
        return "\n".join(
            [
                "import numpy, openvino",
                f"settings = {_settings(target, notes)!r}",
                f'model = openvino.Core().compile_model("{FILE}", "CPU", settings)',
                "read = {n for port in model.inputs for n in port.names}  # it may ignore some",
                f"inputs = {expressions.zeros(signature)}",
                "outputs = model({n: a for n, a in inputs.items() if n in read}).to_tuple()",
            ]
        )

    def dense(self, encoding: Encoding, target: Target) -> str | None:
        """Reason why zero weights save no time; compressed 8-bit layers skip them on AMX."""
        del target
        if encoding.weight_bits == encoding.activation_bits == 8 and "amx_int8" in flags():
            return None
        return (
            "OpenVINO skips zero weights of 8-bit linear layers on CPUs with AMX only, so the "
            "latency is that of the dense model."
        )


_RATE = 0.7
"""Smallest share of zeros at which the plugin keeps a layer's 8-bit weights compressed."""
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def _settings(target: Target, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plugin's settings for an artifact with `notes`."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": target.threads,
        # A pinned thread (the default) waits for other work on its core: 7.0 ms instead of 1.7 ms
        # a batch on a busy machine. The measuring process sets its own affinity.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": _HINTS[notes["dtype"]],
        # By default the plugin quantizes activations of compressed layers wherever it can.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32 if notes["dynamic_activations"] else 0,
    }
    if rate := notes.get("decompression_rate"):
        settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
    if not notes.get("snippets", True):
        settings |= snippets.AVOIDED
    return settings


def _lacks(dtype: Precision) -> str | None:
    """Reason why the processor does not compute in `dtype`; None if it does."""
    core = openvino.Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}
    if names.get(dtype) in capabilities:
        return None
    name = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
    return f"the CPU ({name}) has no {dtype} instructions; OpenVINO lists {', '.join(capabilities)}"


def _refuses_dynamic(encoding: Encoding) -> str | None:
    """Reason why activations of compressed layers are not quantized at run time; None if they are.

    The plugin does so for linear layers on CPUs with VNNI and ignores the setting on others.
    """
    if flags() & {"avx512_vnni", "avx_vnni"}:
        return refuses_calibration(encoding, "with 4-bit weights OpenVINO finds")
    return "OpenVINO quantizes activations at run time on CPUs with VNNI only, and this has none"


def _has_dynamic_activations(encoding: Encoding) -> bool:
    return encoding.weight_bits == 4 and encoding.activation_bits == 8


def _store_codes(export: Export, codes: Mapping[str, Codes], model: Any) -> dict[str, Any]:
    """Replace float weights by codes, in place; return notes."""
    encoding = export.encoding
    stored = low_bits.store_codes(model, codes, encoding.coding)
    notes: dict[str, Any] = {
        "scheme": describe_weights(encoding),
        "low_bit_layers": stored.constants,
    }
    return notes | remarks(export.model, stored.weights, unpacked=stored.unpacked)
