"""ONNX Runtime: export a model to `model.onnx` and run it on the CPU."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from torch import Tensor

from objectives.execution import Operation
from objectives.exporting import (
    CODED,
    coded_weights,
    describe_weights,
    expressions,
    in_turns,
    onnx_graphs,
    quiet,
    readable,
    refuses_calibration,
    remarks,
    sparse_graphs,
)
from objectives.host import has_dot_products
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.runtimes.onnxruntime import low_bits, profile, weights
from objectives.runtimes.onnxruntime.int8 import static
from objectives.target import Target
from spaces import Encoding, Infeasible, Task
from spaces.modules import Codes

FILE = "model.onnx"
_SUBJECT = "where linear layers are in the majority ONNX Runtime finds"


class _Session(Program):
    """Program of an ONNX Runtime session, whose raw outputs are arrays."""

    def __init__(
        self,
        signature: Signature,
        target: Target,
        folder: Path,
        *,
        fold: bool,
    ) -> None:
        super().__init__(signature, target, folder)
        self._fold = fold
        self._session = session = onnx_graphs.session_of(
            folder / FILE, threads=target.threads, fold=fold
        )
        accepted = {node.name for node in session.get_inputs()}
        self._inputs = [(i, n) for i, n in enumerate(self.signature.input_names) if n in accepted]
        self._outputs = list(self.signature.output_names)

    def feed(self, tensors: list[Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        """Return arrays by input name; inputs that the model ignores are not in the graph."""
        return {name: np.ascontiguousarray(tensors[i].numpy()) for i, name in self._inputs}

    def run(self, feed: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Execute one batch."""
        outputs: list[np.ndarray[Any, Any]] = self._session.run(self._outputs, feed)
        return outputs

    def read(self, raw: list[np.ndarray[Any, Any]]) -> list[Tensor]:
        """Return the outputs, which the session allocates anew for every run."""
        return [torch.from_numpy(array) for array in raw]

    def operations(self, feed: dict[str, np.ndarray[Any, Any]]) -> tuple[Operation, ...]:
        """Run a second session of the same file with ONNX Runtime's profiler."""
        options = onnx_graphs.session_options(threads=self.target.threads, fold=self._fold)
        with readable(self.folder, FILE) as folder:
            return profile.operations(folder / FILE, options, feed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Onnxruntime(Runtime):
    """ONNX Runtime's CPU provider: float32, and integers by its own kernels.

    8-bit weights and activations have static ranges (QDQ) if most layers are convolutions, and
    otherwise ranges that are computed at run time. Measured against the float outputs on one AVX2
    thread: a ResNet-20 keeps 30 dB at 1.6 times float32's speed with static ranges and 33 dB at 0.7
    times with dynamic ones, a 6-layer BERT 15 dB at 1.4 times and 25 dB at 1.7 times.
    """

    reads = CODED | {"activation_bits", "calibration", "calibration_samples", "coding", "dtype"}
    packages = (
        "onnx",
        "onnxruntime",
    )
    devices = frozenset({"cpu"})

    def lacks_kernels(
        self, encoding: Encoding, target: Target, kinds: frozenset[str]
    ) -> str | None:
        """Reason why there are no kernels for `encoding`; None if there are."""
        del target
        if encoding.dtype != "float32":
            return f"ONNX Runtime's CPU provider has no {encoding.dtype} kernels, only conversions"
        if reason := onnx_graphs.refuses_bits(encoding, kinds, "ONNX Runtime", others=((2, 8),)):
            return reason
        convolutional = any(kind.startswith("Conv") and kind != "Conv1D" for kind in kinds)
        if encoding.packed or not convolutional:
            return refuses_calibration(encoding, _SUBJECT)
        return None

    def export(self, export: Export) -> dict[str, Any]:
        """Write model.onnx; return notes on its encoding.

        Raises ValueError if 8-bit activations have no calibration batches.
        """
        if export.encoding.activation_bits == 8 and not export.calibration:
            raise ValueError("8-bit activations need calibration batches, got none")
        encoded = coded_weights(export) if export.encoding.packed else None
        if encoded:
            export = dataclasses.replace(export, model=encoded.model)
        with onnx_graphs.exported(export) as path:
            model = onnx.load(str(path))
            total = len(weights.multiplying(model))
            notes: dict[str, Any] = {"scheme": "float32", "layers": total, "quantized_layers": 0}
            if encoded:
                model, code_notes = _store_codes(export, encoded.codes, model, path.parent)
                notes |= code_notes
            elif export.encoding.quantized:
                model, scheme_notes = _quantize(export, model, path)
                notes |= scheme_notes | {"quantized_layers": weights.integer_layers(model)}
            else:
                notes["sparse_weights"] = sparse_graphs.store_onnx(model)
            if export.encoding.quantized and notes["quantized_layers"] == 0:
                raise Infeasible(
                    f"none of the {total} convolution and linear layers could be quantized to "
                    f"{describe_weights(export.encoding)} in ONNX"
                )
            onnx_graphs.save(model, export.folder / FILE)
        return notes

    def load(
        self, folder: Path, signature: Signature, target: Target, task: Task, notes: dict[str, Any]
    ) -> Program:
        """Open a session with `target.threads` threads."""
        del task
        return _Session(signature, target, folder, fold=_folds(notes))

    def standalone(self, signature: Signature, target: Target, notes: Mapping[str, Any]) -> str:
        """Return lines with the settings that the artifact was measured with."""
        lines = [
            "import numpy, onnxruntime",
            "options = onnxruntime.SessionOptions()",
            f"options.intra_op_num_threads = {target.threads}",
        ]
        if _folds(notes):
            lines.append('options.add_session_config_entry("session.disable_quant_qdq", "1")')
        lines += [
            f'session = onnxruntime.InferenceSession("{FILE}", options)',
            "read = {node.name for node in session.get_inputs()}  # the model may ignore some",
            f"inputs = {expressions.zeros(signature)}",
            "outputs = session.run(None, {n: a for n, a in inputs.items() if n in read})",
        ]
        return "\n".join(lines)


def _folds(notes: Mapping[str, Any]) -> bool:
    """True if weights are unpacked while the session is opened."""
    return bool(notes.get("weights_dequantized_at_load", False))


def _quantize(
    export: Export, model: onnx.ModelProto, path: Path
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the graph of file `path` in 8 bits, with notes: weights only, or activations too."""
    encoding = export.encoding
    if encoding.weight_bits == 8 and encoding.activation_bits == 8:
        kinds = [layer.node.op_type for layer in weights.multiplying(model)]
        convolutions = sum(kind.startswith("Conv") for kind in kinds)
        if 2 * convolutions > len(kinds):
            return static(export, path)
        if reason := refuses_calibration(encoding, _SUBJECT):
            raise Infeasible(reason)
        return _dynamic(path)
    remark = remarks(export.model, weights.stored_weights(model), unpacked=0)
    weights.store_int8(model)
    # Unfolded, DequantizeLinear would run at every inference. Folded, the layers take as long as
    # float32 layers; 8-bit MatMulNBits took 1.7 to 2.4 times as long on a BERT.
    notes = {"scheme": "uint8 weights per channel", "weights_dequantized_at_load": True}
    return model, notes | remark


def _store_codes(
    export: Export, codes: Mapping[str, Codes], model: onnx.ModelProto, scratch: Path
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the graph with codes in place of float weights, and notes; `model` is edited.

    Kernels that do not round activations are used if they are faster than unpacked weights at the
    target's batch size. Both are timed; the codes take the same bytes either way.
    """
    encoding, sentence = export.encoding, None
    rounds = encoding.activation_bits == 8
    unpacked_model = onnx.ModelProto()
    unpacked_model.CopyFrom(model)
    stored = _coded(model, codes, encoding, _kernels(encoding))
    if rounds and stored.kernels == 0:
        raise Infeasible(
            "the model has no linear layer that ONNX Runtime can run from "
            f"{encoding.weight_bits} bits with 8-bit activations"
        )
    if stored.kernels and not rounds:
        unpacked = _coded(unpacked_model, codes, encoding, frozenset())
        unpacked_seconds, kernel_seconds = _timed(export, (unpacked_model, model), scratch)
        faster = kernel_seconds < in_turns.GAIN * unpacked_seconds
        count, share = stored.kernels, kernel_seconds / unpacked_seconds
        sentence = in_turns.kernel_remark(count, count + stored.unpacked, share, kernels=faster)
        if not faster:
            model, stored = unpacked_model, unpacked
    others = len(weights.multiplying(model))
    coded = stored.weights + weights.stored_weights(model)
    weights.store_int8(model)  # layers without codes
    scheme = describe_weights(encoding)
    notes: dict[str, Any] = {
        "scheme": f"{scheme}, others uint8 per channel" if others else scheme,
        "quantized_layers": stored.kernels + stored.unpacked + others,
        "low_bit_layers": stored.kernels + stored.unpacked,
        "low_bit_kernels": stored.kernels,
        "weights_dequantized_at_load": True,
    }
    if rounds:
        notes["scheme"] += ", int8 activations per block into the layers with kernels"
    return model, notes | remarks(export.model, coded, unpacked=stored.unpacked, sentence=sentence)


def _coded(
    model: onnx.ModelProto, codes: Mapping[str, Codes], encoding: Encoding, kernels: frozenset[int]
) -> low_bits.StoredCodes:
    level = 4 if encoding.activation_bits == 8 else 1
    return low_bits.store_codes(model, codes, kernels=kernels, level=level, coder=encoding.coding)


def _timed(export: Export, models: Sequence[onnx.ModelProto], scratch: Path) -> list[float]:
    """Return the median seconds of a run of each graph on the example."""
    runs: list[Callable[[], object]] = []
    for i, model in enumerate(models):
        path = scratch / f"timed{i}.onnx"
        onnx_graphs.save(model, path)
        session = onnx_graphs.session_of(path, threads=export.target.threads, fold=True)
        accepted = {node.name for node in session.get_inputs()}
        feed = {
            k: v
            for k, v in onnx_graphs.input_arrays(export.signature, export.example).items()
            if k in accepted
        }
        runs.append(functools.partial(session.run, None, feed))
    return in_turns.in_turns(runs, single_threaded=export.target.threads == 1)


def _kernels(encoding: Encoding) -> frozenset[int]:
    """Return the widths in bits at which linear layers are computed from codes.

    With float activations MatMulNBits has fast code for 4 bits only: for 1024 x 1024 weights at
    batch 1 it takes 0.26 ms with 4 bits and 6.9 ms with 2, unpacked weights take 0.12 ms. With
    activations rounded to 8 bits it takes 0.07 to 0.09 ms for 2, 4 and 8 bits. Rounding them if the
    encoding asks for float ones would be another encoding, which the search tries as such.
    """
    if encoding.activation_bits == 8:
        return frozenset({2, 4, 8})
    return frozenset({4}) if encoding.weight_bits == 4 else frozenset()


def _dynamic(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Quantize linear layers and embeddings, with activation ranges computed at run time."""
    reduced = not has_dot_products()
    target = path.with_name("dynamic.onnx")
    with quiet(DeprecationWarning):
        quantization.quantize_dynamic(
            path,
            target,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            reduce_range=reduced,
            weight_type=quantization.QuantType.QInt8,
        )
    scheme = "int8 weights per channel, uint8 activations with ranges found at run time"
    return onnx.load(str(target)), {"scheme": scheme, "seven_bit_weights": reduced}
