"""Models that do more with their linear layers than call them, in the eager runtime."""

import dataclasses
import json
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from _networks import request
from torch import Tensor, nn

from objectives import Target
from objectives.exporting import torch_modules
from objectives.kernels.replaceable import linears
from objectives.runtimes.eager import Eager
from spaces import Infeasible, Task

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Encoder(nn.Module):
    """PyTorch's layer reads the weights of its two linear layers, to run both in one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.last = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.layer(x)))


class FeedForward(nn.Module):
    """As in T5, whose feed-forward layer takes the type of its second weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down(self.up(x).relu().to(self.down.weight.dtype)))


class Mixer(nn.Module):
    """Mixes positions, whose rows are not contiguous, then channels."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.channels = nn.Linear(16, 16), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.channels(self.positions(x.transpose(1, 2)).transpose(1, 2)))


class Reading(nn.Module):
    """Never calls its only linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.only.weight


def bare() -> nn.Module:
    return nn.Linear(32, 32)


KINDS: tuple[Callable[[], nn.Module], ...] = (Encoder, FeedForward, Mixer, bare)


class Owner:
    """The task of a model that was not edited."""

    def __init__(self, kind: Callable[[], nn.Module]) -> None:
        self.kind = kind

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.kind().eval()


def positions(count: int) -> Tensor:
    return torch.randn(count, 16, 32, generator=torch.Generator().manual_seed(1))


def shipped(
    kind: Callable[[], nn.Module], folder: Path, device: str = "cpu", **bits: Any
) -> tuple[float, dict[str, Any]]:
    """Return how far an artifact of batch size 1 is from the model, and its notes."""
    owner, target = Owner(kind), Target(device=cast(Any, device))
    export = request(owner.model(), positions(16), folder, **bits)
    export = dataclasses.replace(export, target=target)
    notes = json.loads(json.dumps(Eager().export(export)))
    # where few bits have kernels they are to be right even if they were not the faster choice
    used = notes | ({"kernels": True} if "kernels" in notes else {})
    program = Eager().load(folder, export.signature, target, cast(Task, owner), used)
    with torch.no_grad():
        wanted = owner.model()(positions(3))
    return float((program(positions(3)) - wanted).norm() / wanted.norm()), notes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "bits", [{"weight_bits": 8}, {"weight_bits": 4, "dtype": "bfloat16"}], ids=str
)
def test_weights_of_few_bits_do_not_make_a_model_infeasible(
    tmp_path: Path, kind: Callable[[], nn.Module], bits: dict[str, Any]
) -> None:
    error, _ = shipped(kind, tmp_path, **bits)
    assert error < 0.1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [{"activation_bits": 8, "weight_bits": 8}, {"dtype": "float8"}])
@pytest.mark.parametrize(
    ("kind", "left"),
    [
        (Encoder, "2 of 3 linear layers stay in floating point.* layer.linear1, layer.linear2$"),
        (FeedForward, "1 of 2 linear layers stay .*: down$"),
        (Mixer, None),
        (bare, None),
    ],
)
def test_layers_that_a_model_reads_stay_in_floating_point(
    tmp_path: Path,
    kind: Callable[[], nn.Module],
    left: str | None,
    bits: dict[str, Any],
    device: str,
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    reason = Eager().refuses(
        request(Owner(kind).model(), positions(16), tmp_path, **bits).encoding,
        Target(device=cast(Any, device)),
        frozenset({"Linear"}),
    )
    if reason is not None:
        pytest.skip(reason)
    error, notes = shipped(kind, tmp_path, device, **bits)
    assert error < 0.1
    assert ("remark" in notes) is (left is not None)
    if left is not None:
        assert re.search(left, notes["remark"])


def test_no_layer_that_can_be_replaced_is_infeasible(tmp_path: Path) -> None:
    with pytest.raises(Infeasible, match="reads the weights of all its linear layers itself"):
        shipped(Reading, tmp_path, weight_bits=8, activation_bits=8)


def test_kernels_that_do_not_run_leave_unpacked_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise Infeasible("no")

    calls = iter((lambda *_: None, refuse))  # the model itself runs, its copy with kernels does not
    changed = vars(torch_modules) | {"rehearse": lambda *given: next(calls)(*given)}
    shown = types.SimpleNamespace(**changed)  # to the runtime alone: kernels rehearse as well
    monkeypatch.setattr("objectives.runtimes.eager.runtime.torch_modules", shown)
    export = request(Owner(Mixer).model(), positions(16), tmp_path, weight_bits=8)
    notes = Eager().export(export)
    assert notes["kernels"] is False
    assert "unpacked when the artifact is loaded" in notes["remark"]


def test_watching_leaves_the_model_as_it_is() -> None:
    model = Owner(FeedForward).model()
    before = {name: (type(m), set(vars(m))) for name, m in model.named_modules()}
    found = linears(model, positions(1))
    assert (list(found.replaceable), list(found.read)) == (["up"], ["down"])
    assert before == {name: (type(m), set(vars(m))) for name, m in model.named_modules()}
