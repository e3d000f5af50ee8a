"""Few bits in recurrent and transposed layers: stored, computed right, and what is left is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from _networks import request, size
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from objectives import Runtime
from objectives.runtimes.eager import Eager
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Encoding, Task
from spaces.quantization.encode import encoded

RUNTIMES: tuple[Callable[[], Runtime], ...] = (Eager, Onnxruntime, Openvino)


class Recurrent(nn.Module):
    """(batch, 6, 32) -> (batch, 5)."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(32, 64, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.cells(x)[0].mean(1)))


class Transposed(nn.Module):
    """(batch, 3, 8, 8) -> (batch, 2), its widest layers transposed, one of them in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 64, 2, stride=2)
        self.norm = nn.BatchNorm2d(64)
        self.wide = nn.ConvTranspose2d(64, 64, 2, stride=2, groups=2)
        self.last = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.up(self.first(x))))
        return cast(Tensor, self.last(self.wide(x)).mean((2, 3)))


class Turned(nn.Module):
    """(batch, 64) -> (batch, 5), of transformers' linear layers: weights are (inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mid, self.down = Conv1D(256, 64), Conv1D(128, 256), Conv1D(5, 128)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down(torch.relu(self.mid(torch.relu(self.up(x))))))


class Bare(nn.Module):
    """A weight of its own that no layer holds, beside a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(64, 64) / 8)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(torch.relu(x @ self.own + x)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM), (16, 6, 32)),
    "GRU": (lambda: Recurrent(nn.GRU), (16, 6, 32)),
    "RNN": (lambda: Recurrent(nn.RNN), (16, 6, 32)),
    "ConvTranspose2d": (Transposed, (16, 3, 8, 8)),
    "Conv1D": (Turned, (16, 64)),
    "bare": (Bare, (16, 64)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    return build().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Owner:
    def __init__(self, name: str) -> None:
        self.name = name

    def model(self) -> nn.Module:
        return made(self.name)[0]


def shipped(kind: Callable[[], Runtime], name: str, folder: Path, **bits: Any) -> tuple[Any, Any]:
    """Export and load; return the notes and the outputs for the inputs of `made`."""
    model, inputs = made(name)
    export = request(model, inputs, folder, batch=4, **bits)
    notes = json.loads(json.dumps(kind().export(export)))
    task = cast(Task, Owner(name))
    program = kind().load(folder, export.signature, export.target, task, notes)
    return notes, program(inputs)


@pytest.mark.parametrize("bits", [{"weight_bits": 4}, {"weight_bits": 3}, {"cluster_bits": 4}])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "bare"])
@pytest.mark.parametrize("kind", RUNTIMES)
def test_weights_take_few_bits_and_compute_what_they_stand_for(
    tmp_path: Path, kind: Callable[[], Runtime], name: str, bits: dict[str, int]
) -> None:
    notes, got = shipped(kind, name, tmp_path, **bits)
    model, inputs = made(name)
    with torch.no_grad():
        wanted = encoded(model, None, Encoding(**bits)).model(inputs)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    weights = 4 * sum(p.numel() for p in model.parameters())
    graph = (tmp_path / "model.xml").stat().st_size if kind is Openvino else 0
    assert size(tmp_path) - graph < 0.3 * weights + 12_000
    assert "stay in floating point" not in notes.get("remark", "")


@pytest.mark.parametrize("kind", RUNTIMES)
def test_the_record_says_how_many_weights_stay_in_floating_point(
    tmp_path: Path, kind: Callable[[], Runtime]
) -> None:
    notes, _ = shipped(kind, "bare", tmp_path, weight_bits=4)
    # 64 x 64 of 4421 weights; in the graphs it is a linear layer's, which has 8 bits in ONNX
    # Runtime's and none in OpenVINO's
    expected = kind is not Onnxruntime
    assert ("93% of the weights stay in floating point" in notes.get("remark", "")) is expected


def test_eight_bit_weights_of_onnxruntime_say_it_too(tmp_path: Path) -> None:
    notes, _ = shipped(Onnxruntime, "LSTM", tmp_path, weight_bits=8)
    assert "100% of the weights stay in floating point" in notes["remark"]
