"""Blocks that go: which ones, how the rest computes on, and that they travel."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import Infeasible, Split, Task
from spaces.modules.dropped import Dropped
from spaces.modules.surgery import achieved, dropped, load, save
from spaces.modules.trees import call
from spaces.techniques.prune.channels import Channels
from spaces.techniques.prune.layers import Layers


class Block(nn.Module):
    def __init__(self, width: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out)
        self.b = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
        with torch.no_grad():
            self.b.weight *= scale
            self.b.bias *= scale

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.b(self.norm(self.a(x)).relu())


class Residual(nn.Module):
    """The third block does hardly anything, the fourth little; the second changes the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(
            Block(8, 8, 3), Block(8, 16), Block(16, 16, 1e-3), Block(16, 16, 0.1)
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Pairs(nn.Module):
    """As older transformers: layers get keyword arguments and return tuples."""

    class Layer(nn.Module):
        kind = "full"

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.dense = nn.LayerNorm(12), nn.Linear(12, 12)

        def forward(self, mask: Tensor, *, hidden: Tensor) -> tuple[Tensor, None]:
            return hidden + self.dense(self.norm(hidden)), None

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Pairs.Layer() for _ in range(3))
        for layer, scale in zip(self.layers, (1, 1e-3, 1), strict=True):
            layer.dense.weight.data *= scale
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(len(x), dtype=torch.bool)
        for layer in self.layers:
            x, _ = layer(mask, hidden=x)
        return self.head(x)


class Made(Task):
    def __init__(self, build: Callable[[], nn.Module], *shape: int) -> None:
        self.build, self.shape = build, shape

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        for rows in torch.randn(64, *self.shape, generator=generator).split(batch_size):
            yield rows, torch.zeros(len(rows), dtype=torch.int64)

    def describe(self) -> dict[str, str]:
        return {"name": "made"}


RESIDUAL, PAIRS = Made(Residual, 3, 8, 8), Made(Pairs, 12)


def gone(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, Dropped)]


def test_the_blocks_that_matter_least_go_and_those_that_change_the_width_stay() -> None:
    drops = [gone(Layers(count=n).apply(RESIDUAL.model(), RESIDUAL)) for n in (1, 2, 3)]
    assert drops == [["blocks.2"], ["blocks.2", "blocks.3"], ["blocks.0", "blocks.2", "blocks.3"]]
    with pytest.raises(Infeasible, match="4 blocks are to be dropped, and the model has 3"):
        Layers(count=4).apply(RESIDUAL.model(), RESIDUAL)


def test_what_a_dropped_block_is_given_goes_on() -> None:
    model = Layers(count=1).apply(PAIRS.model(), PAIRS)
    assert gone(model) == ["layers.1"]
    x = torch.randn(5, 12)
    whole = PAIRS.model()
    by_hand = whole.head(sum_of(whole.layers[2], sum_of(whole.layers[0], x)))
    assert torch.equal(model(x), by_hand)


def sum_of(layer: Any, x: Tensor) -> Tensor:
    found: Tensor = layer(None, hidden=x)[0]
    return found


@pytest.mark.parametrize("task", [RESIDUAL, PAIRS], ids=["tensor", "tuple"])
def test_dropped_blocks_travel(task: Made, tmp_path: Path) -> None:
    model = Layers(count=1).apply(task.model(), task)
    assert achieved(task.model(), model) > 0.1
    save(tmp_path, task.model(), model)
    again = load(tmp_path, task.model())
    inputs = next(task.batches("validation", 8))[0]
    assert torch.equal(call(again.eval(), inputs), call(model, inputs))
    assert gone(again) == gone(model)
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_channels_can_be_pruned_beside_and_the_whole_travels(tmp_path: Path) -> None:
    model = Layers(count=1).apply(RESIDUAL.model(), RESIDUAL)
    model = Channels(ratio=0.5, round_to=4).apply(model, RESIDUAL)
    save(tmp_path, RESIDUAL.model(), model)
    inputs = next(RESIDUAL.batches("validation", 8))[0]
    again = load(tmp_path, RESIDUAL.model()).eval()
    assert torch.equal(again(inputs), model.eval()(inputs))


def test_the_reference_is_not_edited() -> None:
    reference = RESIDUAL.model()
    state = copy.deepcopy(reference.state_dict())
    Layers(count=2).apply(copy.deepcopy(reference), RESIDUAL)
    assert all(torch.equal(state[k], v) for k, v in reference.state_dict().items())


def test_a_model_without_blocks_and_a_wrong_count_say_so() -> None:
    task = Made(lambda: nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 3)), 12)
    with pytest.raises(Infeasible, match="the model has 0"):
        Layers(count=1).apply(task.model(), task)
    with pytest.raises(ValueError, match="0 or more blocks, got -1"):
        Layers(count=-1)


def test_layers_of_torch_and_of_transformers() -> None:
    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
        stack = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        return nn.Sequential(stack, nn.Linear(12, 3))

    task = Made(encoder, 5, 12)
    assert len(gone(Layers(count=2).apply(task.model(), task))) == 2
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip

    class Sentences(Made):
        def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
            for x, y in super().batches(split, batch_size):
                ids = (x.abs() * 10).long().clamp(max=49)
                yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, y

    task = Sentences(lambda: transformers.BertModel(config, add_pooling_layer=False), 7)
    model = Layers(count=2).apply(task.model(), task)
    assert [name.rpartition(".")[0] for name in gone(model)] == ["encoder.layer"] * 2


class Excite(nn.Module):
    """As in squeeze-and-excitation: returns what it is given, scaled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Unit(nn.Module):
    """A convolution of its own kind, as libraries of networks have them."""

    def __init__(self, width: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, out, 1), nn.BatchNorm2d(out, affine=False)
        self.norm.running_mean += 0.5
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.scale


class Inverted(nn.Module):
    """Adds to what it is given only where it may; its parts keep the width either way."""

    def __init__(self, width: int, out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.f = nn.Sequential(
            Unit(width, 2 * width), Unit(2 * width, 2 * width), nn.ReLU(), Excite(2 * width),
            Unit(2 * width, out, scale),
        )  # fmt: skip
        self.adds = width == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x) if self.adds else self.f(x)


class Stage(nn.Module):
    """Several blocks of one build; two stages of one kind that keep the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(Inverted(width, width), Inverted(width, width, 1e-3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def mobile() -> nn.Module:
    blocks = [Inverted(8, 8), Inverted(8, 16), Inverted(16, 16, 1e-3)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )


def staged() -> nn.Module:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(3, 8, 3), Stage(8), Stage(8), *head)


def test_parts_of_blocks_are_no_blocks() -> None:
    task = Made(mobile, 3, 8, 8)
    assert gone(Layers(count=1).apply(task.model(), task)) == ["3"]
    assert gone(Layers(count=2).apply(task.model(), task)) == ["1", "3"]
    with pytest.raises(Infeasible, match="the model has 2 that add to what they are given"):
        Layers(count=3).apply(task.model(), task)


def test_a_stage_is_its_blocks() -> None:
    task = Made(staged, 3, 8, 8)
    model = Layers(count=2).apply(task.model(), task)
    assert gone(model) == ["1.layers.1", "2.layers.1"]
    assert dropped(model) == gone(model)
