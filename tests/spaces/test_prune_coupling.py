"""Layers that are coupled by concatenation: each search ends, however many there are."""

import copy

import pytest
import torch
from _models import Made
from torch import Tensor, nn

from spaces import Infeasible
from spaces.modules.structure import bounds
from spaces.modules.surgery import achieved, describe, rebuild, tensors
from spaces.techniques.prune.channels import Channels

pytestmark = pytest.mark.usefixtures("one_thread")


class Dense(nn.Module):
    """Reads what all layers before it wrote."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (inputs, 2 * growth))
        self.narrow = nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.wide = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, before: list[Tensor]) -> Tensor:
        x = self.narrow(self.norms[0](torch.cat(before, 1)).relu())
        return self.wide(self.norms[1](x).relu())


class DenseNet(nn.Module):
    """Blocks of dense layers, connected as the second and third of DenseNet-121."""

    def __init__(self, counts: tuple[int, ...] = (12, 24), growth: int = 4) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks, self.between = nn.ModuleList(), nn.ModuleList()
        for count in counts:
            self.blocks.append(
                nn.ModuleList(Dense(width + i * growth, growth) for i in range(count))
            )
            width += count * growth
            self.between.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()))
            if len(self.blocks) < len(counts):
                self.between[-1].append(nn.Conv2d(width, width // 2, 1, bias=False))
                width //= 2
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, after in zip(self.blocks, self.between, strict=True):
            found = [x]
            for layer in block:
                found.append(layer(found))
            x = after(torch.cat(found, 1))
        return self.head(x.mean((2, 3)))


def test_every_layer_of_a_densely_connected_network_is_pruned() -> None:
    task = Made(DenseNet, 3, 4, 4, samples=16)
    reference = task.model()
    technique = Channels(ratio=0.5, round_to=1, widths="uniform", importance="l2", refit=False)
    pruned = technique.apply(task.model(), task)  # a warning would be an error
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.Conv2d):
            whole = reference.get_submodule(name)
            assert layer.out_channels == whole.out_channels // 2, name
    assert achieved(reference, pruned) > 0.7
    edits = describe(reference, pruned), tensors(reference, pruned)
    again = rebuild(copy.deepcopy(reference), *edits)
    inputs, _ = next(task.batches("validation", 4))
    with torch.no_grad():
        assert torch.equal(again(inputs), pruned(inputs))


class Circle(nn.Module):
    """The halves of what a layer reads change places, and are added to what they were."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        first, second = x.chunk(2, 1)
        x = self.b(x + torch.cat([second, first], 1)).relu()
        return self.head(x.mean((2, 3)))


def test_a_search_that_goes_in_circles_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "STEPS", 100)
    task = Made(Circle, 3, 4, 4)
    with pytest.raises(Infeasible, match=r"^the layers cannot be .* did not end in 100 steps"):
        Channels(ratio=0.5).apply(task.model(), task)


NORMS = {
    "with parameters": lambda: nn.BatchNorm1d(32),
    "statistics alone": lambda: nn.BatchNorm1d(32, affine=False),
    "no statistics": lambda: nn.BatchNorm1d(32, affine=False, track_running_stats=False),
}


@pytest.mark.parametrize("norm", NORMS)
def test_linear_layers_around_batch_normalisation_are_pruned(norm: str) -> None:
    """As in the heads of self-supervised learning."""

    def build() -> nn.Module:
        first, second = nn.Linear(12, 32, bias=False), nn.Linear(32, 16)
        return nn.Sequential(first, NORMS[norm](), nn.ReLU(), second, nn.ReLU(), nn.Linear(16, 3))

    task = Made(build, 12)
    reference = task.model()
    pruned = Channels(ratio=0.5, widths="uniform").apply(task.model(), task)
    assert (pruned[0].out_features, pruned[3].in_features, pruned[3].out_features) == (16, 16, 8)
    buffers = [b for b in pruned[1].buffers() if b.dim()]
    assert all(len(b) == 16 for b in buffers)
    assert bool(buffers) == pruned[1].track_running_stats
    again = rebuild(
        copy.deepcopy(reference), describe(reference, pruned), tensors(reference, pruned)
    )
    inputs, _ = next(task.batches("validation", 8))
    with torch.no_grad():
        assert torch.equal(again(inputs), pruned(inputs))
