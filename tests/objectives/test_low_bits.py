"""Weights of few bits in every runtime: as small as they say, and exactly the rounded model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from _networks import Convolutions, Transformer, Wide, built, images, request, sentences, size
from torch import Tensor, nn

from objectives import Export, Program, Runtime, Target
from objectives.exporting.codes import match_rows
from objectives.runtimes.eager import Eager
from objectives.runtimes.inductor import Inductor
from objectives.runtimes.null import Null
from objectives.runtimes.onnxruntime import Onnxruntime, low_bits
from objectives.runtimes.openvino import Openvino
from spaces import Encoding, Task
from spaces.modules.codes import Codes
from spaces.modules.trees import call
from spaces.quantization.encode import encoded

RUNTIMES: tuple[Callable[[], Runtime], ...] = (Eager, Onnxruntime, Openvino)
MIXED = frozenset({"Conv2d", "Linear"})


class Owner:
    """The task of a model that was not pruned."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind

    def model(self) -> nn.Module:
        return built(self.kind)


def deployed(runtime: Runtime, export: Export, kind: type[nn.Module]) -> Program:
    notes = json.loads(json.dumps(runtime.export(export)))
    task = cast(Task, Owner(kind))
    return runtime.load(export.folder, export.signature, export.target, task, notes)


def first(tree: Any) -> Tensor:
    return tree["pooled"] if isinstance(tree, dict) else tree  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", RUNTIMES)
@pytest.mark.parametrize(
    "bits",
    [
        {"weight_bits": 4},
        {"weight_bits": 3},
        {"weight_bits": 2},
        {"weight_bits": 1},
        {"weight_bits": 2, "symmetric": True, "granularity": "channel"},
        {"cluster_bits": 5},
        {"cluster_bits": 4, "coding": "lzma"},
    ],
)
@pytest.mark.parametrize(("model", "data"), [(Convolutions, images), (Transformer, sentences)])
def test_an_artifact_computes_what_the_rounded_model_does(
    tmp_path: Path, kind: Callable[[], Runtime], bits: dict[str, Any], model: Any, data: Any
) -> None:
    runtime, export = kind(), request(built(model), data(16), tmp_path, batch=4, **bits)
    assert runtime.refuses(export.encoding, Target(), MIXED) is None
    program = deployed(runtime, export, model)
    with torch.no_grad():
        wanted = first(call(encoded(export.model, None, export.encoding).model, data(6)))
    got = first(program(data(6)))
    assert bool(got.isfinite().all())
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_the_fake_device_stores_codes_too(tmp_path: Path) -> None:
    export = request(built(Convolutions), images(16), tmp_path, batch=4, weight_bits=2)
    assert Null().refuses(export.encoding, Target(), MIXED) is None
    with torch.no_grad():
        wanted = encoded(export.model, None, export.encoding).model(images(6))
    got = deployed(Null(), export, Convolutions)(images(6))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", RUNTIMES)
@pytest.mark.parametrize("bits", [4, 3, 2, 1])
def test_a_wide_layer_takes_the_bits_it_says(
    tmp_path: Path, kind: Callable[[], Runtime], bits: int
) -> None:
    folders = [tmp_path / name for name in ("few", "eight")]
    for folder, width in zip(folders, (bits, 8), strict=True):
        folder.mkdir()
        setting = {"granularity": "channel"} if width < 8 else {}
        inputs = torch.randn(16, 16)
        kind().export(request(built(Wide), inputs, folder, weight_bits=width, **setting))
    payload = 512 * 512 * bits / 8
    scales = 512 * (4 + 1)
    others = (16 * 512 + 512 * 4) + 4 * (512 + 4) + 4 * 3 * (512 + 512 + 4)
    overhead = 16_000 if kind is Openvino else 6_000  # the graph, in XML, and names
    if kind is Onnxruntime and bits == 4:  # the kernel has at most 256 inputs to a scale
        scales *= 2
    assert payload < size(folders[0]) < payload + scales + others + overhead


def test_eight_bit_kernels_of_onnxruntime_take_rounded_activations(tmp_path: Path) -> None:
    inputs = torch.randn(16, 16)
    export = request(built(Wide), inputs, tmp_path, weight_bits=2, activation_bits=8)
    assert Onnxruntime().refuses(export.encoding, Target(), frozenset({"Linear"})) is None
    notes = Onnxruntime().export(export)
    assert (notes["low_bit_layers"], notes["low_bit_kernels"]) == (3, 3)
    assert "remark" not in notes
    program = Onnxruntime().load(tmp_path, export.signature, export.target, cast(Task, None), notes)
    with torch.no_grad():
        wanted = encoded(export.model, None, export.encoding).model(inputs)
    assert float((program(inputs) - wanted).abs().max()) < 0.05 * float(wanted.abs().max())


def test_the_file_of_onnxruntime_needs_nothing_of_ours(tmp_path: Path) -> None:
    Onnxruntime().export(request(built(Convolutions), images(16), tmp_path, weight_bits=3))
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert {f.name for f in model.functions} == {"Unpack3", "Unpack8"}
    stored = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8]
    assert sum(t.ByteSize() for t in stored) < 3 * 16 * 9 + 64 * 16 * 9 * 3 / 8 + 640 + 2_000


def test_zero_points_of_a_row_start_on_a_byte_of_their_own() -> None:
    # Range -3..12 in 15 steps: scale 1, zero point 3. Codes 0..15, the first in the low half.
    codes = Codes(
        codes=torch.arange(16, dtype=torch.uint8).reshape(1, 1, 16).repeat(2, 1, 1),
        bits=4,
        shape=(2, 16),
        scale=torch.ones(2, 1, 1),
        zero=torch.full((2, 1, 1), 3.0),
    )
    packed, scales, zeros = low_bits.matmul_constants(codes)
    assert packed.shape == (2, 1, 8)
    assert packed[0, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert (scales.tolist(), zeros.tolist()) == ([1.0, 1.0], [3, 3])
    assert packed.dtype == np.uint8


def test_codes_are_found_behind_a_folded_normalisation() -> None:
    codes = encoded(built(Convolutions), None, Encoding(weight_bits=3)).codes["second.weight"]
    rows = codes.floats().flatten(1)
    factor = torch.linspace(-2, 2, 64)
    found = match_rows(rows * factor[:, None], codes)
    assert found is not None
    torch.testing.assert_close(found.floats().flatten(1), rows * factor[:, None])
    assert match_rows(rows + 1e-3 * torch.randn_like(rows), codes) is None
    assert match_rows(rows.T, codes) is None


@pytest.mark.parametrize(
    ("runtime", "encoding", "reason"),
    [
        (Eager(), Encoding(weight_bits=2, activation_bits=8), "no kernel for 2-bit weights with"),
        (Eager(), Encoding(mean_bits=3, activation_bits=8), "weights of 3 bits on average with"),
        (Inductor(), Encoding(weight_bits=2), "2-bit weights would save nothing"),
        (Inductor(), Encoding(cluster_bits=4), "4-bit codebooks of weights would save nothing"),
        (
            Inductor(),
            Encoding(weight_bits=8, activation_bits=8, calibration="entropy"),
            "calibrates by min-max, not by entropy",
        ),
        (
            Onnxruntime(),
            Encoding(weight_bits=3, activation_bits=8),
            "no kernels for 3-bit weights with 8-bit activations",
        ),
        (
            Onnxruntime(),
            Encoding(cluster_bits=4, activation_bits=8),
            "no kernels for 4-bit codebooks of weights with 8-bit activations",
        ),
        (
            Openvino(),
            Encoding(weight_bits=2, activation_bits=8),
            "no kernels for 2-bit weights with 8-bit activations",
        ),
        (
            Openvino(),
            Encoding(weight_bits=8, activation_bits=8, calibration="entropy"),
            "calibrates by min-max or percentile, not by entropy",
        ),
    ],
)
def test_what_has_no_kernels_is_refused(runtime: Runtime, encoding: Encoding, reason: str) -> None:
    refusal = runtime.refuses(encoding, Target(), MIXED)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("runtime", "rule"),
    [(Onnxruntime(), "percentile"), (Onnxruntime(), "entropy"), (Openvino(), "percentile")],
)
def test_ranges_of_activations_follow_the_rule_that_was_asked_for(
    tmp_path: Path, runtime: Runtime, rule: str
) -> None:
    bits = {"weight_bits": 8, "activation_bits": 8}
    model, kept = built(Convolutions), {}
    for name in ("min-max", rule):
        (tmp_path / name).mkdir()
        setting = {**bits, "calibration": name}
        export = request(model, images(16), tmp_path / name, **setting)
        assert runtime.refuses(export.encoding, Target(), MIXED) is None
        kept[name] = deployed(runtime, export, Convolutions)(images(8))
    with torch.no_grad():
        wanted = model(images(8))
    if rule != "entropy":  # it keeps the whole range of values spread as evenly as these
        assert not torch.equal(kept["min-max"], kept[rule])
    for outputs in kept.values():
        assert float((outputs - wanted).abs().max()) < 0.5 * float(wanted.abs().max())
