"""8-bit quantization of OpenVINO models by NNCF."""

import math

from objectives.exporting import onnx_graphs, quiet, without_module
from objectives.runtime import Export
from objectives.runtimes.openvino.graphs import convolutional, weight
from spaces import Encoding, Infeasible, first_line

with without_module("openvino_telemetry"):  # it reports every import over the network
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

SMALL = 16_384
"""Weights below which a linear layer of a convolutional network stays in float32."""
_RANGES = {
    "min-max": RangeEstimatorParametersSet.MINMAX,
    "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE,
}


def lacks_calibration(encoding: Encoding) -> str | None:
    """Reason why NNCF does not know the calibration rule; None if it does."""
    if encoding.calibration in _RANGES:
        return None
    return f"NNCF calibrates by {' or '.join(_RANGES)}, not by {encoding.calibration}"


def encode(export: Export, model: openvino.Model) -> tuple[openvino.Model, str]:
    """Return the quantized model and the name of the scheme: weights only, or activations too.

    Raises Infeasible if NNCF cannot quantize the graph.
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


def _quantize(export: Export, model: openvino.Model) -> tuple[openvino.Model, str]:
    """Quantize weights and activations with calibrated ranges.

    Convolutional networks take the extremes as activation ranges: against the float outputs a
    ResNet-20 keeps 32.6 dB, with NNCF's default ranges 19.4 dB, with the QDQ file of ONNX Runtime's
    quantizer 30.8 dB at the same speed. Networks with attention or without convolutions take NNCF's
    transformer scheme, which smooths activations: a 6-layer BERT keeps 27.3 dB, with the QDQ file
    15.5 dB.
    """
    batches = [onnx_graphs.input_arrays(export.signature, batch) for batch in export.calibration]
    known = {name for port in model.inputs for name in port.names}
    data = nncf.Dataset([{k: v for k, v in batch.items() if k in known} for batch in batches])
    convolves = convolutional(model)
    options = nncf.AdvancedQuantizationParameters()
    if convolves or export.encoding.calibration != "min-max":
        options.activations_range_estimator_params = _RANGES[export.encoding.calibration]
    small = _small(model) if convolves else []
    quantized = nncf.quantize(
        model,
        data,
        ignored_scope=nncf.IgnoredScope(names=small) if small else None,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
        fast_bias_correction=True,
        model_type=None if convolves else nncf.ModelType.TRANSFORMER,
        advanced_parameters=options,
    )
    scheme = f"int8, NNCF {'extremes' if convolves else 'transformer'}"
    if export.encoding.calibration != "min-max":
        scheme = f"int8, NNCF {export.encoding.calibration}"
    return quantized, scheme


def _small(model: openvino.Model) -> list[str]:
    """Return the names of linear layers that are too small to gain from integers.

    The plugin's integer kernel takes 22 to 45 us to set up, whatever the size of the layer. For the
    last layer of a ResNet-20 (64 x 10) that is 6 % of the model's time; in float32 there is no such
    cost.
    """
    weights = {
        node.get_friendly_name(): math.prod(constant.get_output_shape(0))
        for node in model.get_ops()
        if node.get_type_name() == "MatMul" and (constant := weight(node, 1)) is not None
    }
    return [name for name, size in weights.items() if size < SMALL]
