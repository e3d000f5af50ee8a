"""Static 8-bit quantization of ONNX graphs with calibrated activation ranges."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from objectives.exporting import onnx_graphs, quiet
from objectives.host import has_dot_products
from objectives.runtime import Export, Signature

NORMALISING = ("Softmax", "LayerNormalization", "InstanceNormalization", "LpNormalization")
"""Operations that stay in float, as 8 bits are too few: a BERT would fall from 15 dB to 0.4 dB."""
CALIBRATIONS = {
    "min-max": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
}
BINS = 512
"""Histogram bins of the entropy rule, which chooses a range for 128 levels. The quantizer's default
is 128 bins: with as many bins as levels it never narrows a range and equals min-max.
"""


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, signature: Signature, calibration: Sequence[Any], names: set[str]) -> None:
        self._feeds: Iterator[dict[str, Any]] = (
            {
                name: array
                for name, array in onnx_graphs.input_arrays(signature, batch).items()
                if name in names
            }
            for batch in calibration
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def static(export: Export, path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Quantize a graph to QDQ; return it with notes.

    Weights are signed, with a scale per channel, and activations unsigned, in their calibrated
    range: the only pair with fast kernels on every x86. On AVX2 without VNNI its sums saturate in
    16 bits, which takes a ResNet-20 from 30 dB to 16 dB, so weights use 7 bits there
    (`reduce_range`), at the same speed.
    """
    reduced = not has_dot_products()
    clean, target = path.with_name("clean.onnx"), path.with_name("static.onnx")
    with quiet(DeprecationWarning, RuntimeWarning):
        quant_pre_process(path, clean, skip_symbolic_shape=True)
        model = load_model_with_shape_infer(clean)
        excluded = [node.name for node in model.graph.node if node.op_type in NORMALISING]
        quantizer = QDQQuantizer(
            model,
            True,  # scales per channel
            reduced,
            quantization.QuantType.QInt8,
            quantization.QuantType.QUInt8,
            _observed(export, clean, {node.name for node in model.graph.input}),
            [],
            excluded,
            _operators(),
            {},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target), False)
    scheme = "int8 weights per channel, uint8 activations with calibrated ranges"
    notes = {"calibration": export.encoding.calibration, "seven_bit_weights": reduced}
    return onnx.load(str(target)), {"scheme": scheme} | notes


def _observed(export: Export, path: Path, names: set[str]) -> TensorsData:
    """Return the ranges of all tensors of a graph, by the calibration rule of the encoding."""
    rule = export.encoding.calibration
    calibrator = create_calibrator(
        path,
        _operators(),
        augmented_model_path=str(path.with_name("observed.onnx")),
        calibrate_method=CALIBRATIONS[rule],
        extra_options={"num_bins": BINS} if rule == "entropy" else {},
    )
    calibrator.collect_data(_Batches(export.signature, export.calibration, names))
    return calibrator.compute_data()


def _operators() -> list[str]:
    return sorted({*QLinearOpsRegistry, *QDQRegistry})
