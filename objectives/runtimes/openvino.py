"""OpenVINO on the CPU, from its intermediate representation."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectives._target import Target
from objectives.runtimes import _decompression, _snippets
from objectives.runtimes._codes import coded_weights, remarks, spelled
from objectives.runtimes._cpu import flags
from objectives.runtimes._onnx import exported, feeds, refuses_bits
from objectives.runtimes._quiet import absent, quiet
from objectives.runtimes._ranges import uncalibrated
from objectives.runtimes._runtime import Export, Program, Runtime, Signature
from objectives.runtimes._sparse_openvino import store_sparse
from spaces import Encoding, Infeasible, Precision, Task
from spaces._reasons import first_line
from spaces.quantize._codes import Codes

with absent("openvino_telemetry"):  # it reports every import over the network
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

FILE = "model.xml"
SMALL = 16_384
"""Weights below which a linear layer of a convolutional network stays in float32."""
KERNELS = ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData")
RECURRENT = ("LSTMSequence", "GRUSequence", "RNNSequence")
INTEGERS = ("i4", "u4", "i8", "u8", "u1", "u2", "u3", "u6")
TRANSPARENT = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize")
"""Operations that may stand between a layer and its stored weight."""


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

    def refuses(self, encoding: Encoding, target: Target, kinds: frozenset[str]) -> str | None:
        """Return why there are no kernels for `encoding`."""
        if target.device != "cpu":
            return f"openvino is run on its CPU plugin only, the target is {target.device}"
        return (
            _lacks(encoding.dtype)
            or refuses_bits(encoding, kinds, "OpenVINO")
            or _lacks_calibration(encoding)
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
        with exported(export) as path:
            model = openvino.Core().read_model(str(path))
            notes: dict[str, Any] = {"scheme": export.encoding.dtype}
            if whole:
                notes |= _store_codes(export, whole.codes, model)
            elif export.encoding.quantized:
                if export.calibration and _snippets.crashes(model, path, _snippets.CALIBRATING):
                    raise Infeasible(_snippets.UNCALIBRATED)
                model, scheme = _encode(export, model)
                notes["scheme"] = scheme
            notes |= _count(model, export.encoding)
            if not (whole or export.encoding.quantized):
                notes["sparse_weights"] = store_sparse(model)
            elif "amx_int8" in flags():
                notes["decompression_rate"] = _RATE
            openvino.save_model(model, str(export.folder / FILE), compress_to_fp16=half)
            notes["dtype"] = export.encoding.dtype
            notes["dynamic_activations"] = _dynamic(export.encoding)
            settings = _settings(export.target, notes)
            if _snippets.crashes(model, export.folder / FILE, settings):
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
_RANGES = {
    "min-max": RangeEstimatorParametersSet.MINMAX,
    "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE,
}
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
        settings |= _snippets.AVOIDED
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
        return uncalibrated(encoding, "with 4-bit weights OpenVINO finds")
    return "OpenVINO quantizes activations at run time on CPUs with VNNI only, and this has none"


def _lacks_calibration(encoding: Encoding) -> str | None:
    if encoding.calibration in _RANGES:
        return None
    return f"NNCF calibrates by {' or '.join(_RANGES)}, not by {encoding.calibration}"


def _dynamic(encoding: Encoding) -> bool:
    return encoding.weight_bits == 4 and encoding.activation_bits == 8


def _encode(export: Export, model: openvino.Model) -> tuple[openvino.Model, str]:
    """Return the model in the encoding asked for, with the name of the scheme.

    Raises Infeasible when NNCF cannot quantize the graph.
    """
    encoding = export.encoding
    try:
        with quiet(DeprecationWarning, FutureWarning, UserWarning, RuntimeWarning):
            if encoding.activation_bits == 32:
                mode = nncf.CompressWeightsMode.INT8_ASYM  # 43 dB on a BERT, symmetric 39 dB
                return nncf.compress_weights(model, mode=mode), "uint8 weights per channel"
            return _quantize(export, model)
    except (nncf.ValidationError, nncf.InternalError, nncf.UnsupportedModelError) as error:
        raise Infeasible(f"NNCF cannot quantize this model: {first_line(error)}") from error
    except (RuntimeError, KeyError, ValueError) as error:
        raise Infeasible(f"NNCF fails on this model: {first_line(error)}") from error


def _store_codes(export: Export, codes: Mapping[str, Codes], model: Any) -> dict[str, Any]:
    """Put codes in the place of weights, in place; return what was done."""
    encoding = export.encoding
    count, weights = _decompression.store_codes(model, codes, encoding.coding)
    notes: dict[str, Any] = {"scheme": spelled(encoding), "low_bit_layers": count}
    slow = sum(node.get_type_name() in (*KERNELS[1:], *RECURRENT) for node in model.get_ops())
    unpacked = count if encoding.cluster_bits < 32 else slow
    return notes | remarks(export.model, weights, unpacked=unpacked)


def _quantize(export: Export, model: openvino.Model) -> tuple[openvino.Model, str]:
    """Quantize weights and activations after training, by NNCF.

    Convolutional networks take activation ranges from the extremes: against float outputs a
    ResNet-20 then keeps 32.6 dB, with NNCF's default ranges 19.4 dB, with the QDQ file of ONNX
    Runtime's quantizer 30.8 dB at the same speed. Networks with attention, or without
    convolutions, take NNCF's transformer scheme (smoothed activations): 27.3 dB for a 6-layer
    BERT, where the QDQ file keeps 15.5 dB.
    """
    batches = [feeds(export.signature, batch) for batch in export.calibration]
    known = {name for port in model.inputs for name in port.names}
    data = nncf.Dataset([{k: v for k, v in batch.items() if k in known} for batch in batches])
    convolutional = _convolutional(model)
    options = nncf.AdvancedQuantizationParameters()
    if convolutional or export.encoding.calibration != "min-max":
        options.activations_range_estimator_params = _RANGES[export.encoding.calibration]
    small = _small(model) if convolutional else []
    quantized = nncf.quantize(
        model,
        data,
        ignored_scope=nncf.IgnoredScope(names=small) if small else None,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
        fast_bias_correction=True,
        model_type=None if convolutional else nncf.ModelType.TRANSFORMER,
        advanced_parameters=options,
    )
    scheme = f"int8, NNCF {'extremes' if convolutional else 'transformer'}"
    if export.encoding.calibration != "min-max":
        scheme = f"int8, NNCF {export.encoding.calibration}"
    return quantized, scheme


def _small(model: openvino.Model) -> list[str]:
    """Return the linear layers of a convolutional model that are too small to gain from integers.

    The plugin's integer kernel for them takes 22 to 45 us to set up, whatever their size: on the
    last layer of a ResNet-20 (64 x 10) that is 6 % of the model's time, in float32 nothing.
    """
    weights = {
        node.get_friendly_name(): math.prod(weight.get_output_shape(0))
        for node in model.get_ops()
        if node.get_type_name() == "MatMul" and (weight := _weight(node, 1)) is not None
    }
    return [name for name, size in weights.items() if size < SMALL]


def _convolutional(model: openvino.Model) -> bool:
    """Whether the model convolves and has no attention (a product of two activations)."""
    kinds = [node.get_type_name() for node in model.get_ops()]
    products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    attention = any(all(_weight(node, i) is None for i in (0, 1)) for node in products)
    return any(kind in KERNELS[1:] for kind in kinds) and not attention


def _weight(node: Any, position: int, *, books: bool = False) -> Any | None:
    """Return the constant behind a layer's input, through what dequantizes it.

    With `books`, what is looked up in a table counts too: the constant is that of the indices.
    """
    source = node.input_value(position).get_node()
    while (kind := source.get_type_name()) in TRANSPARENT or (books and kind == "Gather"):
        source = source.input_value(int(kind == "Gather")).get_node()
    return source if source.get_type_name() == "Constant" else None


def _count(model: openvino.Model, encoding: Encoding) -> dict[str, int]:
    """Return how many layers there are and how many have integer weights.

    Raises Infeasible when integers were asked for and no layer has them.
    """
    types, books = Counter[str](), encoding.packed
    for node in model.get_ops():
        if node.get_type_name() in KERNELS:
            found = (_weight(node, place, books=books) for place in (1, 0))
            weights = [weight for weight in found if weight is not None]
            types.update(w.get_element_type().get_type_name() for w in weights[:1])
    total = types.total()
    quantized = sum(types[name] for name in INTEGERS)
    if encoding.quantized and quantized == 0:
        raise Infeasible(
            f"none of the {total} convolution and linear layers could be quantized to "
            f"{spelled(encoding)} in OpenVINO"
        )
    return {"layers": total, "quantized_layers": quantized}
