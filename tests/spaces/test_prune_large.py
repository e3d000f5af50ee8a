"""Pruning of large models: fewer samples, estimated damages, layers in parts, caches, windows."""

import copy
from collections.abc import Callable

import pytest
import torch
from _models import Made
from torch import Tensor, nn

from spaces import FORGETFUL, Infeasible
from spaces.modules import Caches, flatten, samples
from spaces.modules.structure import coupling, readers
from spaces.pruning import ReferenceOutputs, record
from spaces.pruning.estimate import Changes
from spaces.techniques.prune.channels import Channels


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))


def test_a_dearer_model_is_observed_on_fewer_samples() -> None:
    assert samples.affordable(1.0, 1e9) == samples.SAMPLES
    assert samples.affordable(1e9, 2e10) == 20
    assert samples.affordable(1e30, 1.0) == samples.FEWEST


def test_values_that_layers_write_cost_time_beside_their_products() -> None:
    products = Made(lambda: nn.Conv2d(8, 8, 1, bias=False), 8, 6, 6)
    values = Made(lambda: nn.Sequential(products.build(), nn.ReLU(), nn.ReLU()), 8, 6, 6)
    first, second = (samples.cost(task.model(), task) for task in (products, values))
    assert first == 2 * 8 * 8 * 36 + samples.ELEMENT * 8 * 36
    assert second - first == 2 * samples.ELEMENT * 8 * 36


@pytest.mark.parametrize("name", ["0", "2"])
@pytest.mark.parametrize("columns", [1, 5], ids=["classes", "one value"])
def test_an_estimated_damage_is_near_a_small_one_that_was_measured(name: str, columns: int) -> None:
    task = Made(lambda: nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, columns)), 12)
    model = task.model()
    matrix = readers.matrix(model.get_submodule(name))
    change = {name: matrix + 0.02 * torch.randn(matrix.shape, dtype=matrix.dtype)}
    measured = ReferenceOutputs(model, task).distance(change)
    changes = Changes(model)
    changes.note(change)
    (estimated,) = changes.damages(task, cost=1.0)
    assert measured / 2.5 < estimated < measured * 2.5


def test_widths_by_estimated_damages_fall_where_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> nn.Module:
        net = nn.Sequential(
            nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
        )
        with torch.no_grad():  # of the second layer, 8 neurons are read
            net[4].weight[:, 8:] = 0
        return net

    task = Made(build, 12)
    monkeypatch.setattr("spaces.pruning.damage.SHARE", 0.0)
    pruned = Channels(ratio=0.5).apply(task.model(), task)
    assert pruned[2].out_features == 8
    assert pruned[0].out_features > 32


def test_few_places_for_many_columns_raise_the_ridge() -> None:
    assert readers.scarcity(columns=10, places=1000) == 1
    assert readers.scarcity(columns=100, places=100) == readers.PLACES_PER_COLUMN


def test_pixels_of_a_flattened_channel_stay_in_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(144, 5)
        )

    monkeypatch.setattr(readers, "WIDEST", 40)
    monkeypatch.setattr(readers, "ALIGNED", 8)
    monkeypatch.setattr("spaces.pruning.importance.scores", _unexpected)
    task = Made(build, 3, 8, 8)
    parts = readers.observe(task.model(), task, {"4"}, runs={"4": 9})["4"].parts
    assert all(len(part) % 9 == 1 for part in parts)  # the last column is the bias
    assert Channels(ratio=0.5).apply(task.model(), task)[4].in_features == 72


def _unexpected(*_: object) -> None:
    raise AssertionError("the surgery orders all units, so no other criterion is needed")


class Windows(nn.Module):
    """Cuts 8 tokens into 4 windows, and adds a bias that it computes from a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.rand(1, 2, 4))
        self.bias = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 6))
        self.up, self.down = nn.Linear(6, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (4, 2)).flatten(0, 1) + self.bias(self.table)
        return self.down(torch.relu(self.up(windows))).unflatten(0, (-1, 4)).mean((1, 2))


def test_goals_of_windows_are_those_of_all_batches_as_one() -> None:
    task = Made(Windows, 8, 6, samples=96)
    model = task.model()
    goals = record(model, task, {"down", "bias.2"}, FORGETFUL)
    assert set(goals.layers) == {"down"}  # the table of positions has no samples
    seen: list[Tensor] = []
    model.down.register_forward_hook(lambda module, args, output: seen.append(output))
    model(torch.cat(list(goals.inputs)))
    places, outputs = goals.layers["down"].first(len(goals.inputs))
    assert torch.allclose(seen[0][places], outputs, atol=1e-6)
    assert Channels(ratio=0.5).apply(task.model(), task).up.out_features == 16


class Remembering(nn.Module):
    """Keeps what it computes from its weights, in a dict and as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = small(), nn.Parameter(torch.ones(5))
        self.kept: dict[str, Tensor] = {}
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.scale * 2
        return self.net(x) * self.kept.setdefault("scale", self.scale * 2)


def test_what_a_model_keeps_from_pruning_is_forgotten() -> None:
    task = Made(Remembering, 12)
    pruned = Channels(ratio=0.5).apply(task.model(), task)
    assert pruned.net[0].out_features == 16
    assert pruned.kept == {}
    assert pruned.last is None
    copy.deepcopy(pruned)  # which tensors with a history of gradients refuse


def test_caches_are_put_back_in_place() -> None:
    model = Remembering()
    table, before = model.kept, torch.zeros(())
    table["old"] = before
    caches = Caches(model)
    model(torch.rand(2, 12))
    caches.restore()
    assert model.kept is table
    assert table == {"old": before}


def test_keys_and_values_for_the_next_token_are_no_outputs() -> None:
    transformers = pytest.importorskip("transformers")
    logits = torch.rand(2, 3)
    fields = {"logits": logits, "past_key_values": transformers.DynamicCache()}
    tensors, spec = flatten(fields)
    assert tensors == [logits]
    assert spec == {"fields": [["logits", "tensor"]]}


class OwnNorm(nn.BatchNorm2d):
    """A normalisation of a library's own, as timm has one that also activates."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Branches(nn.Module):
    """Adds a batch normalisation, which may be a class of its own, to two convolutions."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 32, 3, padding=1), norm(32)
        self.second, self.third = (nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.norm(x) + self.third(torch.relu(self.second(x)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, OwnNorm], ids=["of torch", "own"])
def test_a_sum_with_a_batch_normalisation_is_no_hidden_state(
    norm: Callable[[int], nn.Module],
) -> None:
    model = Made(lambda: Branches(norm), 3, 6, 6).model()
    sets = coupling.find(model, torch.rand(2, 3, 6, 6))
    readers_of = [m.name for s in sets for way in s.ways[:1] for m in way.members if m.side == "in"]
    assert "head" in readers_of


def test_a_channel_shuffle_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def divided(*_: object, **__: object) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")  # as in a ShuffleNet

    monkeypatch.setattr("torch_pruning.DependencyGraph.build_dependency", divided)
    task = Made(lambda: Branches(nn.BatchNorm2d), 3, 6, 6)
    with pytest.raises(Infeasible, match="a reshape groups channels, as a channel shuffle does"):
        Channels(ratio=0.5).apply(task.model(), task)
