"""OpenVINO on the CPU, from its intermediate representation."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectives.exporting import (
    CODED,
    coded_weights,
    describe_weights,
    onnx_graphs,
    refuses_calibration,
    remarks,
    without_module,
)
from objectives.host import flags
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.runtimes.openvino import int8, low_bits, snippets
from objectives.runtimes.openvino.graphs import count, renumber
from objectives.runtimes.openvino.sparse import store_sparse
from objectives.target import Target
from spaces import Encoding, Infeasible, Precision, Task
from spaces.modules import Codes

with without_module("openvino_telemetry"):  # it reports every import over the network
    import openvino

FILE = "model.xml"


class _Request(Program):
    """A compiled model with one inference request, used again and again."""

    def __init__(
        self,
        signature: Signature,
        target: Target,
        folder: Path,
        compiled: openvino.CompiledModel,
    ) -> None:
        super().__init__(signature, target, folder)
        ports = {name: port for port in compiled.inputs for name in port.names}
        self._ports = [
            (i, ports[name]) for i, name in enumerate(signature.input_names) if name in ports
        ]
        self._request = compiled.create_infer_request()
        self._outputs = compiled.outputs

    def feed(self, tensors: list[Tensor]) -> list[tuple[Any, openvino.Tensor]]:
        """Return each input's port with a view of its memory."""
        arrays = [(port, np.ascontiguousarray(tensors[i].numpy())) for i, port in self._ports]
        return [(port, openvino.Tensor(array, shared_memory=True)) for port, array in arrays]

    def run(self, feed: list[tuple[Any, openvino.Tensor]]) -> openvino.InferRequest:
        """Execute one batch; the outputs stay in the request until the next one."""
        for port, tensor in feed:
            self._request.set_tensor(port, tensor)
        self._request.infer()
        return self._request

    def read(self, raw: openvino.InferRequest) -> list[Tensor]:
        """Return copies of the outputs."""
        return [torch.from_numpy(raw.get_tensor(port).data.copy()) for port in self._outputs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Openvino(Runtime):
    """OpenVINO's CPU plugin; half precision and integers where the processor computes in them.

    The model comes from its ONNX file. Converting the module itself traces it too, takes as long
    (ResNet-20 4.6 s against 0.6, 6-layer BERT 4.5 s against 4.7), runs at the same speed and
    loses the names of inputs and outputs.
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
        """Return why there are no kernels for `encoding`."""
        del target
        return (
            _lacks(encoding.dtype)
            or onnx_graphs.refuses_bits(encoding, kinds, "OpenVINO")
            or int8.lacks_calibration(encoding)
            or (_refuses_dynamic(encoding) if _dynamic(encoding) else None)
        )

    def export(self, export: Export) -> dict[str, Any]:
        """Write model.xml and model.bin; return how they are encoded."""
        if export.encoding.activation_bits == 8 and not export.calibration:
            raise ValueError("8-bit activations need calibration batches, got none")
        half = export.encoding.dtype != "float32"
        whole = coded_weights(export) if export.encoding.packed else None
        if whole:
            export = dataclasses.replace(export, model=whole.model)
        with onnx_graphs.exported(export) as path:
            model = openvino.Core().read_model(str(path))
            notes: dict[str, Any] = {"scheme": export.encoding.dtype}
            if whole:
                notes |= _store_codes(export, whole.codes, model)
            elif export.encoding.quantized:
                if export.calibration and snippets.crashes(model, path, snippets.CALIBRATING):
                    raise Infeasible(snippets.UNCALIBRATED)
                model, scheme = int8.encode(export, model)
                notes["scheme"] = scheme
            notes |= count(model, export.encoding)
            if not (whole or export.encoding.quantized):
                notes["sparse_weights"] = store_sparse(model)
            elif "amx_int8" in flags():
                notes["decompression_rate"] = _RATE
            renumber(model)
            openvino.save_model(model, str(export.folder / FILE), compress_to_fp16=half)
            notes["dtype"] = export.encoding.dtype
            notes["dynamic_activations"] = _dynamic(export.encoding)
            settings = _settings(export.target, notes)
            if snippets.crashes(model, export.folder / FILE, settings):
                notes["snippets"] = False
            del model  # it maps the file about to be removed
        return notes

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Return the model compiled for one stream of `target.threads` threads."""
        del task
        settings = _settings(target, notes)
        compiled = openvino.Core().compile_model(str(folder / FILE), "CPU", settings)
        return _Request(signature, target, folder, compiled)

    def dense(self, encoding: Encoding, target: Target) -> str | None:
        """Return why zero weights save no time: only compressed int8 layers on AMX read fewer."""
        del target
        if encoding.weight_bits == encoding.activation_bits == 8 and "amx_int8" in flags():
            return None
        return (
            "OpenVINO skips zero weights of 8-bit linear layers on CPUs with AMX only, so the "
            "latency is that of the dense model."
        )


_RATE = 0.7
"""Share of zeros from which the plugin keeps a layer's 8-bit weights compressed in memory."""
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


def _settings(target: Target, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an artifact with `notes` is compiled with."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": target.threads,
        # Pinned, which is the default, a thread waits behind whatever else runs on its core:
        # 7.0 ms against 1.7 ms a batch on a busy machine. Affinity is the process's business.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": _HINTS[notes["dtype"]],
        # The plugin would quantize activations of compressed layers wherever it can.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 32 if notes["dynamic_activations"] else 0,
    }
    if rate := notes.get("decompression_rate"):
        settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = rate
    if not notes.get("snippets", True):
        settings |= snippets.AVOIDED
    return settings


def _lacks(dtype: Precision) -> str | None:
    """Return why the processor does not compute in `dtype`."""
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    names = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}
    if names.get(dtype) in able:
        return None
    name = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
    return f"the CPU ({name}) has no {dtype} instructions; OpenVINO lists {', '.join(able)}"


def _refuses_dynamic(encoding: Encoding) -> str | None:
    """Return why activations of compressed layers are not quantized as they come.

    The plugin does so for linear layers where VNNI exists, and ignores the request elsewhere.
    """
    if flags() & {"avx512_vnni", "avx_vnni"}:
        return refuses_calibration(encoding, "with 4-bit weights OpenVINO finds")
    return "OpenVINO quantizes activations at run time on CPUs with VNNI only, and this has none"


def _dynamic(encoding: Encoding) -> bool:
    return encoding.weight_bits == 4 and encoding.activation_bits == 8


def _store_codes(export: Export, codes: Mapping[str, Codes], model: Any) -> dict[str, Any]:
    """Put codes in the place of weights, in place; return what was done."""
    encoding = export.encoding
    placed = low_bits.store_codes(model, codes, encoding.coding)
    notes: dict[str, Any] = {
        "scheme": describe_weights(encoding),
        "low_bit_layers": placed.constants,
    }
    return notes | remarks(export.model, placed.weights, unpacked=placed.unpacked)
