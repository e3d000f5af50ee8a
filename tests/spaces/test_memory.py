"""What settings share is computed once, and changes nothing about what comes out."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import FORGETFUL, Memory, Split, Task, Technique
from spaces.modules import drop, identity
from spaces.techniques.prune.channels import Channels
from spaces.techniques.prune.layers import Layers
from spaces.techniques.prune.weights import Weights


class Block(nn.Module):
    """A residual block with normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.bn1(self.conv1(x))))


class Images(Task):
    """A residual network on random images."""

    def model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            blocks = [Block(16) for _ in range(3)]
            return nn.Sequential(
                nn.Conv2d(3, 16, 1), *blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 4)
            ).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(2):
            yield torch.randn(batch_size, 3, 4, 4), torch.zeros(batch_size, dtype=torch.int64)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    def describe(self) -> dict[str, str]:
        return {"name": "random images"}


class Stored(Memory):
    """Keeps values as a file would, and counts those that were computed."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.computed: list[str] = []

    def remembered(
        self, kind: str, follows_from: Mapping[str, Any], compute: Callable[[], Any]
    ) -> Any:
        key = json.dumps([kind, follows_from], sort_keys=True)
        if key not in self.values:
            self.computed.append(kind)
            file = io.BytesIO()
            torch.save(compute(), file)
            self.values[key] = file.getvalue()
        return torch.load(io.BytesIO(self.values[key]), weights_only=True)


def edited(setting: Technique, memory: Memory = FORGETFUL) -> dict[str, Tensor]:
    task = Images()
    torch.manual_seed(1)
    weights: dict[str, Tensor] = setting.edit(task.model(), task, memory).state_dict()
    return weights


@pytest.mark.parametrize(
    ("first", "next_one"),
    [
        (Channels(ratio=0.25, round_to=4), Channels(ratio=0.5, round_to=4)),
        (
            Channels(ratio=0.25, round_to=4, widths="uniform"),
            Channels(ratio=0.5, round_to=4, widths="uniform"),
        ),
        (
            Channels(ratio=0.25, round_to=4, importance="taylor"),
            Channels(ratio=0.5, round_to=4, importance="taylor"),
        ),
        (Weights(sparsity=0.5), Weights(sparsity=0.75)),
        (Layers(count=2), Layers(count=1)),
    ],
)
def test_the_next_setting_computes_no_statistics_and_comes_out_equal(
    first: Technique, next_one: Technique
) -> None:
    memory = Stored()
    edited(first, memory)
    memory.computed.clear()
    kept, alone = edited(next_one, memory), edited(next_one)
    assert memory.computed == []
    assert kept.keys() == alone.keys()
    assert all(torch.equal(kept[name], alone[name]) for name in kept)


def test_a_larger_count_of_blocks_only_looks_for_those_that_are_new() -> None:
    memory = Stored()
    edited(Layers(count=1), memory)
    memory.computed.clear()
    kept, alone = edited(Layers(count=2), memory), edited(Layers(count=2))
    assert memory.computed == ["block"]
    assert all(torch.equal(kept[name], alone[name]) for name in kept)


def test_statistics_of_one_model_are_not_taken_for_those_of_another() -> None:
    task, memory = Images(), Stored()
    setting = Channels(ratio=0.5, round_to=4)
    setting.edit(task.model(), task, memory)
    other = task.model()
    with torch.no_grad():
        other[1].conv1.weight.copy_(other[1].conv1.weight.flip(0))
    memory.computed.clear()
    setting.edit(other, task, memory)
    assert {"curves", "outputs"} <= set(memory.computed)


def test_models_that_compute_something_else_have_another_identity() -> None:
    def strided(model: nn.Module) -> None:
        model[1].conv1.stride = (2, 2)  # type: ignore[index, union-attr]

    def shifted(model: nn.Module) -> None:
        model[1].bn1.running_mean += 1  # type: ignore[index, union-attr, operator]

    def dropped(model: nn.Module) -> None:
        drop(model[2], 0)  # type: ignore[index]

    seen = {identity(Images().model())}
    assert identity(Images().model().train()) in seen
    for change in (strided, shifted, dropped):
        model = Images().model()
        change(model)
        assert identity(model) not in seen
        seen.add(identity(model))
