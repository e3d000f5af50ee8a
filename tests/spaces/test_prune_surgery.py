"""Which channels go, how many of which layer, and how well the rest makes up for them."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import Memory, Split, Task
from spaces.modules.samples import batches
from spaces.modules.structure import readers
from spaces.modules.structure.readers import matrix, pick, read, readable, written
from spaces.pruning.damage import ReferenceOutputs
from spaces.techniques.prune.channels import IMPORTANCES, Channels


class Given(Task):
    """A given network on fixed random inputs."""

    def __init__(self, net: nn.Module, width: int = 12) -> None:
        self.net, self.width = net.eval(), width

    def model(self) -> nn.Module:
        return copy.deepcopy(self.net)

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        for _ in range(8):
            yield self.inputs(batch_size, generator), torch.zeros(batch_size, dtype=torch.int64)

    def inputs(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, self.width, generator=generator)

    def describe(self) -> dict[str, str]:
        return {"name": "given"}


def doubled() -> nn.Sequential:
    """Every hidden neuron stands there twice: half of them can go without a loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
    with torch.no_grad():
        net[0].weight[16:], net[0].bias[16:] = net[0].weight[:16], net[0].bias[:16]
    return net


def error(task: Given, pruned: nn.Module) -> float:
    """Return the difference from the whole network on new inputs, relative to its outputs."""
    torch.manual_seed(7)
    x = task.inputs(256)
    with torch.no_grad():
        whole = task.model()(x)
        return float((pruned(x) - whole).norm() / whole.norm())


def test_channels_that_others_can_stand_in_for_go_and_are_made_up_for() -> None:
    task = Given(doubled())
    pruned = Channels(ratio=0.5).apply(task.model(), task)
    assert pruned[0].out_features == 16
    assert error(task, pruned) < 0.02
    blind = Channels(ratio=0.5, importance="l2", refit=False).apply(task.model(), task)
    assert error(task, blind) > 0.2


def test_widths_fall_where_it_does_the_least_damage() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
    )
    with torch.no_grad():  # of the second layer, 8 neurons are read
        net[4].weight[:, 8:] = 0
    task = Given(net)
    measured = Channels(ratio=0.5).apply(task.model(), task)
    uniform = Channels(ratio=0.5, widths="uniform").apply(task.model(), task)
    assert (uniform[0].out_features, uniform[2].out_features) == (32, 32)
    assert measured[2].out_features == 8
    assert measured[0].out_features > 32
    assert error(task, measured) < error(task, uniform)


def test_only_what_layers_read_that_lose_inputs_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: set[str] = set()

    def watched(
        model: nn.Module, task: Task, names: Iterable[str], memory: Memory, **options: Any
    ) -> dict[str, readers.Reader]:
        found = observe(model, task, names, memory, **options)
        looked.update(found)
        return found

    observe = readers.observe
    monkeypatch.setattr(readers, "observe", watched)
    task = Given(doubled())
    Channels(ratio=0.5).apply(task.model(), task)
    assert looked == {"2"}


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("widths", ["measured", "uniform"])
def test_every_choice_of_channels_works(importance: str, widths: str) -> None:
    task = Given(doubled())
    pruned = Channels(ratio=0.5, importance=importance, widths=widths).apply(task.model(), task)
    assert pruned[0].out_features == 16
    assert error(task, pruned) < 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(12, 7),
        nn.Linear(12, 7, bias=False),
        nn.Conv2d(4, 7, 3, stride=2, padding=1),
        nn.Conv2d(4, 7, (3, 2), dilation=2, padding="same", bias=False),
        nn.Conv2d(4, 7, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(4, 7, 3, padding=2),
    ],
    ids=str,
)
def test_what_a_layer_reads_times_its_matrix_is_what_it_writes(layer: nn.Module) -> None:
    torch.manual_seed(0)
    shape = {nn.Linear: (2, 5, 12), nn.Conv2d: (2, 4, 9, 8), nn.Conv1d: (2, 4, 9)}[type(layer)]
    x = torch.randn(shape)
    with torch.no_grad():
        output = layer(x)
        places = pick(layer, output, torch.Generator())
        expected = written(layer, output, places)
        assert torch.allclose(
            read(layer, x, places).double() @ matrix(layer).T, expected.double(), atol=1e-5
        )
    assert len(expected) == output.numel() / 7


def test_damage_is_zero_where_nothing_changed_and_leaves_the_model_alone() -> None:
    task = Given(doubled())
    model = task.model()
    before = copy.deepcopy(model.state_dict())
    outputs = ReferenceOutputs(model, task)
    same = matrix(model[2])
    assert outputs.distance({"2": same}) == pytest.approx(0, abs=1e-9)
    assert outputs.distance({"2": same * 0.5}) > 1e-3
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_outputs_that_cannot_be_compared_are_said_to_prune_all_layers_alike() -> None:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = doubled()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).sum()

    task = Given(Scalar())
    with pytest.warns(UserWarning, match="prunes all layers alike: no output"):
        pruned = Channels(ratio=0.5).apply(task.model(), task)
    assert pruned.net[0].out_features == 16


def test_batches_are_the_same_every_time_and_leave_the_random_state_alone() -> None:
    class Shuffled(Given):
        def batches(self, split: Split, batch_size: int) -> Iterator[Any]:
            for _ in range(3):
                yield torch.randn(batch_size, 12), torch.zeros(batch_size)

    task = Shuffled(doubled())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = torch.cat(list(batches(task, 100)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.cat(list(batches(task, 100))), first)
    assert first.shape == (100, 12)


def test_layers_that_do_more_than_multiply_are_left_alone() -> None:
    class Doubling(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(12, 7))
    assert readable(nn.Linear(12, 7))
    assert not any(map(readable, (Doubling(12, 7), weighted, nn.Conv2d(4, 8, 3, groups=2))))


def test_the_scale_of_normalisation_decides_and_random_knows_nothing() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)
    net = nn.Sequential(*layers)
    with torch.no_grad():
        net[1].weight[:] = torch.arange(16).flip(0) + 1.0
        net[0].weight[8:] *= 100  # by the weights, others would go
    task = Given(net)
    fixed = {"ratio": 0.5, "refit": False, "widths": "uniform"}
    kept = {
        name: Channels(importance=name, **fixed).apply(task.model(), task)[1].weight.tolist()
        for name in ("scale", "l2", "random")
    }
    assert kept["scale"] == [16, 15, 14, 13, 12, 11, 10, 9]
    assert kept["l2"] != kept["scale"] != kept["random"]
    again = Channels(importance="random", **fixed).apply(task.model(), task)
    assert again[1].weight.tolist() == kept["random"]


def test_a_criterion_by_which_nothing_goes_is_neutral() -> None:
    assert Channels(importance="random").canonical() == Channels()
    assert Channels(importance="random", ratio=0.2).canonical().importance == "random"


@pytest.mark.parametrize("widths", ["measured", "uniform"])
def test_rounds_lead_to_the_same_widths(widths: str) -> None:
    task = Given(doubled())
    once = Channels(ratio=0.75, widths=widths).apply(task.model(), task)
    thrice = Channels(ratio=0.75, widths=widths, rounds=3).apply(task.model(), task)
    assert once[0].out_features == thrice[0].out_features == 8
    assert error(task, thrice) < 1
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        Channels(rounds=0)


def test_wide_layers_are_pruned_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
    with torch.no_grad():  # twins stand side by side, hence in one part
        net[0].weight[1::2], net[0].bias[1::2] = net[0].weight[::2], net[0].bias[::2]
    task = Given(net)
    monkeypatch.setattr(readers, "WIDEST", 8)
    monkeypatch.setattr(readers, "ALIGNED", 4)
    reader = readers.observe(net, task, {"2"})["2"]
    assert [len(part) for part in reader.parts] == [9, 9, 9, 9]
    assert [m.shape[0] for m in reader.moments] == [9, 9, 9, 9]
    pruned = Channels(ratio=0.5).apply(task.model(), task)
    assert pruned[0].out_features == 16
    blind = Channels(ratio=0.5, importance="l2", refit=False).apply(task.model(), task)
    assert error(task, pruned) < 0.3 * error(task, blind)
