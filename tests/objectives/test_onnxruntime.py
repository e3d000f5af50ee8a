"""ONNX Runtime: what it exports computes what the model does, smaller where integers are asked."""

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from _networks import Convolutions, Transformer, built, decibels, images, request, sentences, size
from onnx import numpy_helper
from torch import Tensor, nn

from objectives import Export, Program, Target
from objectives.exporting import onnx_graphs
from objectives.runtimes.onnxruntime import Onnxruntime, int8
from spaces import Encoding, Infeasible, Task
from spaces.modules.trees import Fields, call

NO_TASK = cast(Task, None)
CONVOLUTIONAL = frozenset({"Conv2d", "BatchNorm2d"})
MIXED = frozenset({"Conv2d", "Linear"})


def deployed(export: Export) -> tuple[Program, dict[str, Any]]:
    notes = Onnxruntime().export(export)
    notes = json.loads(json.dumps(notes))
    place = (export.folder, export.signature, export.target)
    return Onnxruntime().load(*place, NO_TASK, notes), notes


def test_images_come_back_as_the_model_computes_them(tmp_path: Path) -> None:
    model = built(Convolutions)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    program, notes = deployed(request(model, images(16), tmp_path, batch=4))
    with torch.no_grad():
        torch.testing.assert_close(program(images(10)), model(images(10)), rtol=0, atol=1e-4)
    assert notes == {"scheme": "float32", "layers": 3, "quantized_layers": 0, "sparse_weights": 0}
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_named_inputs_give_named_outputs(tmp_path: Path) -> None:
    model = built(Transformer)
    export = request(model, sentences(16), tmp_path, batch=4)
    program, _ = deployed(export)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [node.name for node in graph.input] == list(export.signature.input_names)
    assert [node.name for node in graph.output] == list(export.signature.output_names)
    outputs = program(sentences(6))
    assert isinstance(outputs, Fields)
    with torch.no_grad():
        wanted = call(model, sentences(6))
    for name in ("logits", "pooled"):
        torch.testing.assert_close(outputs[name], wanted[name], rtol=0, atol=1e-4)


def test_outputs_outlive_the_next_run(tmp_path: Path) -> None:
    program, _ = deployed(request(built(Convolutions), images(16), tmp_path))
    first = program.read(program.run(program.feed([images(2)[:1]])))[0]
    kept = first.clone()
    program.run(program.feed([images(2)[1:]]))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("bits", [(8, 8), (8, 32)])
def test_integer_convolutions_stay_close_and_get_smaller(
    tmp_path: Path, bits: tuple[int, int]
) -> None:
    model, (weight, activation) = built(Convolutions), bits
    program, notes = deployed(
        request(model, images(16), tmp_path, weight_bits=weight, activation_bits=activation)
    )
    assert (notes["layers"], notes["quantized_layers"]) == (3, 3)
    with torch.no_grad():
        assert decibels(model(images(32)), program(images(32))) > 25
    assert size(tmp_path) < 0.6 * 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("bits", "quality"), [((8, 8), 20), ((8, 32), 35), ((4, 32), 15), ((4, 8), 15)]
)
def test_integer_transformers_stay_close_and_get_smaller(
    tmp_path: Path, bits: tuple[int, int], quality: float
) -> None:
    model, (weight, activation) = built(Transformer), bits
    program, notes = deployed(
        request(model, sentences(16), tmp_path, weight_bits=weight, activation_bits=activation)
    )
    assert (notes["layers"], notes["quantized_layers"]) == (6, 6)
    with torch.no_grad():
        wanted = call(model, sentences(32))["pooled"]
    assert decibels(wanted, program(sentences(32))["pooled"]) > quality
    assert size(tmp_path) < 0.6 * 4 * sum(p.numel() for p in model.parameters())


def test_weights_use_eight_bits_only_where_sums_cannot_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for able, largest in ((True, 127), (False, 64)):
        monkeypatch.setattr(int8, "has_dot_products", lambda able=able: able)
        folder = tmp_path / str(able)
        folder.mkdir()
        export = request(built(Convolutions), images(16), folder, weight_bits=8, activation_bits=8)
        assert Onnxruntime().export(export)["seven_bit_weights"] is not able
        graph = onnx.load(folder / "model.onnx").graph
        stored = [numpy_helper.to_array(t) for t in graph.initializer if len(t.dims) == 4]
        assert {a.dtype for a in stored} == {np.dtype(np.int8)}
        assert max(np.abs(a.astype(int)).max() for a in stored) == largest


def test_a_model_without_quantizable_layers_is_infeasible(tmp_path: Path) -> None:
    export = request(nn.ReLU().eval(), images(16), tmp_path, weight_bits=8)
    with pytest.raises(Infeasible, match="none of the 0 convolution and linear layers"):
        Onnxruntime().export(export)


@pytest.mark.slow
def test_a_choice_that_depends_on_the_data_is_not_frozen(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x[0, 0, 0, 0] > x[0, 0, 0, 1] else x * 3

    inputs = torch.arange(16 * 48, dtype=torch.float32).reshape(16, 3, 4, 4)
    with pytest.raises(Infeasible, match=r"cannot be exported to ONNX: .* what the model does; "):
        Onnxruntime().export(request(Branching().eval(), inputs, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_shuffled_examples_hold_the_same_values() -> None:
    batch = [torch.arange(12).reshape(3, 4)]
    (shuffled,) = onnx_graphs._shuffled(batch)
    assert sorted(shuffled.flatten().tolist()) == list(range(12))
    assert not torch.equal(shuffled, batch[0])


@pytest.mark.parametrize(
    ("encoding", "device", "kinds", "reason"),
    [
        (Encoding(dtype="bfloat16"), "cpu", MIXED, "no bfloat16 kernels"),
        (Encoding(dtype="float16"), "cpu", MIXED, "no float16 kernels"),
        (Encoding(activation_bits=8), "cpu", MIXED, "float weights with 8-bit activations"),
        (Encoding(weight_bits=1, activation_bits=8), "cpu", MIXED, "1-bit weights with 8-bit"),
        (
            Encoding(weight_bits=4, activation_bits=8),
            "cpu",
            CONVOLUTIONAL,
            "4-bit weights with 8-bit activations in linear layers only",
        ),
        (
            Encoding(weight_bits=8),
            "cpu",
            frozenset({"ReLU"}),
            "no convolution, linear or recurrent layers",
        ),
        (Encoding(), "cuda", MIXED, "run on cpu only, the target is cuda"),
    ],
)
def test_what_has_no_kernels_is_refused(
    encoding: Encoding, device: str, kinds: frozenset[str], reason: str
) -> None:
    refusal = Onnxruntime().refuses(encoding, Target(device=device), kinds)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(("weight", "activation"), [(32, 32), (8, 8), (8, 32), (4, 32), (4, 8)])
def test_what_has_kernels_is_not_refused(weight: int, activation: int) -> None:
    encoding = Encoding(weight_bits=weight, activation_bits=activation)
    assert Onnxruntime().refuses(encoding, Target(), MIXED) is None


def test_quantized_activations_need_calibration(tmp_path: Path) -> None:
    export = request(built(Convolutions), images(16), tmp_path, weight_bits=8, activation_bits=8)
    with pytest.raises(ValueError, match="need calibration batches, got none"):
        Onnxruntime().export(dataclasses.replace(export, calibration=()))
