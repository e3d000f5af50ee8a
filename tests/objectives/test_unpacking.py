"""Weights of few bits that are unpacked when an artifact is loaded: which, and that it is said."""

from pathlib import Path
from typing import Any, cast

import openvino
import pytest
import torch
from _networks import Convolutions, Wide, built, images, request
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from objectives.exporting import in_turns
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Task
from spaces.quantization.encode import encoded


def test_the_record_says_that_unpacked_weights_are_not_faster(tmp_path: Path) -> None:
    for runtime in (Onnxruntime(), Openvino()):
        folder = tmp_path / type(runtime).__name__
        folder.mkdir()
        notes = runtime.export(request(built(Convolutions), images(16), folder, weight_bits=2))
        assert "unpacked when the artifact is loaded" in notes["remark"]


@pytest.mark.parametrize(
    ("seconds", "kernels", "wording"),
    [
        ([1.0, 0.9], 1, "stay in few bits in memory: their kernels took 0.90 times as long"),
        ([1.0, 1.1], 0, "unpacked when the artifact is loaded: kernels for few bits took 1.10"),
    ],
)
def test_onnxruntime_takes_the_faster_of_kernels_and_unpacked_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    kernels: int,
    wording: str,
) -> None:
    monkeypatch.setattr(in_turns, "in_turns", lambda *_, **__: seconds)
    inputs = torch.randn(16, 16)
    export = request(built(Wide), inputs, tmp_path, weight_bits=4)
    notes = Onnxruntime().export(export)
    assert (notes["low_bit_layers"], notes["low_bit_kernels"]) == (3, kernels)
    assert wording in notes["remark"]
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    program = Onnxruntime().load(tmp_path, export.signature, export.target, cast(Task, None), notes)
    with torch.no_grad():
        wanted = encoded(export.model, None, export.encoding).model(inputs)
    torch.testing.assert_close(program(inputs), wanted, rtol=0, atol=1e-4)


class Turned(nn.Module):
    """A linear layer with a weight of (inputs, outputs), as GPT-2 has them, called as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 4)
        self.inner = Conv1D(96, 64)
        self.outer = Conv1D(64, 96)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.outer(torch.relu(self.inner(self.first(x))))))


@pytest.mark.parametrize(
    ("model", "bits", "unpacked"),
    [
        (Wide, {"weight_bits": 1}, 1),  # the first and the last layer have 8 bits
        (Wide, {"weight_bits": 3}, 1),
        (Wide, {"weight_bits": 6}, 1),
        (Wide, {"weight_bits": 2}, 0),
        (Wide, {"weight_bits": 4}, 0),
        (Wide, {"cluster_bits": 4}, 3),
        (Turned, {"weight_bits": 4}, 2),
    ],
)
def test_openvino_says_which_layers_are_unpacked(
    tmp_path: Path, model: Any, bits: dict[str, Any], unpacked: int
) -> None:
    export = request(built(model), torch.randn(16, 16), tmp_path, **bits)
    notes = Openvino().export(export)
    assert notes.get("unpacked_layers", 0) == unpacked
    assert ("unpacked when the artifact is loaded" in notes.get("remark", "")) is (unpacked > 0)

    # what it says is what the plugin does
    precise = {"INFERENCE_PRECISION_HINT": "f32"}  # as the runtime loads it, on any processor
    core = openvino.Core()
    compiled = core.compile_model(str(tmp_path / "model.xml"), "CPU", precise)
    layers = [
        node.input_value(1).get_element_type().get_type_name()
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
    ]
    assert layers.count("f32") == unpacked
