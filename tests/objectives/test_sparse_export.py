"""Zero weights take fewer bytes in every runtime's artifact, and no time more."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from _networks import Convolutions, built, images, request, size
from torch import nn

from objectives import Runtime, Target
from objectives.runtimes.eager import Eager
from objectives.runtimes.onnxruntime.runtime import FILE, Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Encoding, Split, Task


@dataclasses.dataclass
class Given(Task):
    def model(self) -> nn.Module:
        return network(0.0)

    def batches(self, split: Split, batch_size: int) -> Iterator[Any]:
        raise AssertionError("no data is needed")

    def describe(self) -> dict[str, str]:
        return {"name": "given"}


def network(zeros: float) -> nn.Module:
    """A network of 90,000 weights, of which this share is zero."""
    torch.manual_seed(0)
    model = built(Convolutions)
    model.head = nn.Sequential(nn.Linear(64, 1100), nn.ReLU(), nn.Linear(1100, 10))
    with torch.no_grad():
        for weight in (m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)):
            weight[torch.rand(weight.shape) < zeros] = 0
    return model.eval()


@pytest.mark.parametrize(
    ("runtime", "most"),
    # bytes for each value that stays: a nibble, a byte or two to three bytes for its place
    [(Eager(), 0.17), (Onnxruntime(), 0.21), (Openvino(), 0.33)],
    ids=["eager", "onnxruntime", "openvino"],
)
def test_nine_of_ten_zeros_shrink_the_artifact(
    runtime: Runtime, most: float, tmp_path: Path
) -> None:
    inputs, sizes, outputs = images(4), [], []
    for share in (0.0, 0.9):
        folder = tmp_path / str(share)
        folder.mkdir()
        model = network(share)
        export = request(model, inputs, folder)
        notes = runtime.export(export)
        program = runtime.load(folder, export.signature, Target(), Given(), notes)
        with torch.no_grad():
            outputs.append((program(inputs), model(inputs)))
        sizes.append(size(folder))
    for got, wanted in outputs:
        assert torch.allclose(got, wanted, atol=1e-4)
    assert sizes[1] < most * sizes[0]


def test_nothing_of_it_is_left_when_onnx_runtime_runs(tmp_path: Path) -> None:
    notes = Onnxruntime().export(request(network(0.9), images(4), tmp_path))
    assert notes["sparse_weights"] == 4
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / FILE), options, ["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not kinds & {"ScatterElements", "CumSum", "ConstantOfShape"}


def test_nothing_of_it_is_left_when_openvino_runs(tmp_path: Path) -> None:
    counts = []
    for share in (0.0, 0.9):
        folder = tmp_path / str(share)
        folder.mkdir()
        export = request(network(share), images(4), folder)
        notes = Openvino().export(export)
        program = Openvino().load(folder, export.signature, Target(), Given(), notes)
        graph = program._request.get_compiled_model().get_runtime_model()  # type: ignore[attr-defined]
        counts.append(len(graph.get_ops()))
    assert notes["sparse_weights"] == 3
    assert counts[0] == counts[1]


def test_the_reason_why_zeros_save_no_time_is_a_sentence() -> None:
    for runtime in (Eager(), Onnxruntime(), Openvino()):
        assert "latency is that of the dense model" in str(runtime.dense(Encoding(), Target()))
