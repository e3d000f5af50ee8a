"""Bits by measured times: slow widths are avoided, and noise decides nothing."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from _blobs import CLASSES, Images
from _models import Made
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Encoding, Plan, Task, Time, Untimed, decode, encode
from spaces.quantization.allocation import WIDTHS, Sensitivity, allocated, allocation
from spaces.quantization.encode import encoded
from spaces.quantization.straight import allotted
from spaces.techniques.quantize.mixed import Mixed
from spaces.techniques.quantize.mixed.kinds import WEIGHT, Kind, kinds
from spaces.techniques.quantize.mixed.times import Times, settled
from spaces.training.recovery import recover

NAMES = ("a", "b", "c", "d")
SIZES = dict.fromkeys(NAMES, 100)
FALLING = Sensitivity(
    costs={n: [(1 + i) * 4.0 ** (-2 * b) for b in WIDTHS] for i, n in enumerate(NAMES)}, error=0.5
)
"""Layers alike but for a factor, and a loss that shows little."""
SLOW = {8: 1.0, 6: 2.0, 4: 1.0, 3: 2.0, 2: 1.0}
"""No kernels for 6 and 3 bits."""
FASTER = {8: 4.0, 6: 3.0, 4: 2.0, 3: 1.5, 2: 1.0}
"""The fewer bits, the faster."""


def table(times: dict[int, float]) -> dict[str, list[float]]:
    return {name: [times[bits] for bits in WIDTHS] for name in NAMES}


def spread(value: float, half: float = 0.01) -> Time:
    return Time(value=value, low=value - half, high=value + half)


def mean(bits: dict[str, int]) -> float:
    return sum(bits.values()) / len(bits)


def test_a_slow_width_is_avoided_where_the_loss_is_alike() -> None:
    without = allocated(FALLING, SIZES, 6, {})
    found = allocated(FALLING, SIZES, 6, table(SLOW))
    assert {6, 3} & set(without.bits.values())
    assert not {6, 3} & set(found.bits.values())
    assert mean(dict(found.bits)) == mean(dict(without.bits)) == 6
    assert found.predicted == 4


@pytest.mark.parametrize("times", [SLOW, FASTER, dict(zip(FASTER, (1, 2, 3, 4, 5), strict=True))])
@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2])
@pytest.mark.parametrize("error", [0.0, 0.5, 50.0])
def test_no_allocation_is_slower_than_the_best_single_width(
    times: dict[int, float], bits: float, error: float
) -> None:
    measured = dataclasses.replace(FALLING, error=error)
    found = allocated(measured, SIZES, bits, table(times))
    assert found.width <= bits
    assert mean(dict(found.bits)) <= bits
    assert found.single == 4 * times[found.width]
    assert found.predicted == sum(times[b] for b in found.bits.values()) <= found.single


def test_a_loss_that_shows_is_not_paid_for_time() -> None:
    costly = Sensitivity(costs={n: [0.0, 1.0, 2.0, 3.0, 4.0] for n in NAMES}, error=0.5)
    assert set(allocated(costly, SIZES, 8, table(FASTER)).bits.values()) == {8}


def test_times_that_are_all_alike_leave_the_allocation_as_it_is() -> None:
    same = table(dict.fromkeys(WIDTHS, 1.0))
    for bits in (6, 5, 4, 3):
        assert (
            allocated(FALLING, SIZES, bits, same).bits == allocated(FALLING, SIZES, bits, {}).bits
        )


def test_times_within_each_others_intervals_are_one_time() -> None:
    times = {8: spread(1.0, 0.1), 6: spread(1.15, 0.1), 4: spread(2.0), 3: spread(2.08)}
    assert settled(times) == {8: 1.1, 6: 1.1, 4: 2.0, 3: 2.0}
    again = {8: spread(1.15, 0.1), 6: spread(1.0, 0.1), 4: spread(2.08), 3: spread(2.0)}
    assert settled(again) == settled(times)
    assert len(set(settled({8: spread(1.0), 4: spread(1.2), 2: spread(1.4)}).values())) == 3


@dataclasses.dataclass(frozen=True)
class Points(Images):
    """Linear layers in place of convolutions."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        middle = [nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
        whole = [nn.Flatten(), nn.Linear(8, 32), *middle, nn.Linear(32, CLASSES)]
        return nn.Sequential(*whole).eval()


class Several(nn.Module):
    """A convolution, a layer used twice, one that shares its weight, attention and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 8, 3, padding="same", groups=2, bias=False)
        self.table = nn.Embedding(5, 8)
        self.twice, self.unused = nn.Linear(8, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, images: Tensor, *, ids: Tensor) -> Tensor:
        x = self.convolution(images).flatten(2).transpose(1, 2) + self.table(ids)
        x = self.twice(F.relu(self.twice(x))).transpose(0, 1)
        return self.head(self.attention(x, x, x)[0].transpose(0, 1).mean(1))  # type: ignore[no-any-return]


def test_kinds_are_those_of_the_layers_that_are_executed() -> None:
    model = Several().train()
    inputs = {"images": torch.randn(2, 4, 3, 3), "ids": torch.zeros(2, 9, dtype=torch.long)}
    found = kinds(model, inputs)
    assert {name: [str(kind) for kind in used] for name, used in found.items()} == {
        "convolution.weight": ["Conv2d 4 to 8, 3x3, groups 2 of [2, 4, 3, 3]"],
        "table.weight": ["Linear 8 to 5 of [2, 8]"],
        "twice.weight": ["Linear 8 to 8 of [2, 9, 8]"] * 2,
        "unused.weight": [],
        "attention.in_proj_weight": ["Linear 8 to 24 of [2, 9, 8]"],
        "attention.out_proj.weight": ["Linear 8 to 8 of [2, 9, 8]"],
    }
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


class Crossed(nn.Module):
    """Attention whose keys and values have widths of their own."""

    def __init__(self, kdim: int, vdim: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, kdim=kdim, vdim=vdim, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.attention
        keys, values = x[..., : attention.kdim], x[..., : attention.vdim]
        return self.head(attention(x, keys, values)[0].mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dims", [(12, 16), (16, 12), (8, 12)])
def test_attention_with_keys_or_values_of_another_width(dims: tuple[int, int]) -> None:
    task = Made(lambda: Crossed(*dims), 5, 16)
    inputs, _ = next(task.batches("validation", 2))
    uses = kinds(task.model(), inputs)
    assert {name: [str(kind) for kind in used] for name, used in uses.items()} == {
        "attention.out_proj.weight": ["Linear 16 to 16 of [2, 5, 16]"],
        "head.weight": ["Linear 16 to 3 of [2, 16]"],
    }
    rows = {k: {b: spread(v) for b, v in SLOW.items()} for used in uses.values() for k in used}
    times = Times(uses=uses, table=rows).of(WIDTHS)
    found = allocation(task.model(), task, Encoding(mean_bits=5), times)
    assert set(found.bits) == set(uses)


def test_a_kind_survives_json_and_builds_its_layer() -> None:
    model = Several()
    inputs = {"images": torch.randn(2, 4, 3, 3), "ids": torch.zeros(2, 9, dtype=torch.long)}
    for used in kinds(model, inputs).values():
        for kind in used:
            assert decode(json.loads(json.dumps(encode(kind)))) == kind
            assert torch.equal(kind.model()(kind.inputs()), kind.model()(kind.inputs()))
            assert kind.work > kind.inputs().numel()
    convolution = kinds(model, inputs)["convolution.weight"][0]
    assert convolution.model().get_parameter(WEIGHT).shape == model.convolution.weight.shape


def test_a_shared_weight_counts_for_each_of_its_layers() -> None:
    one = Kind(type="Linear", arguments=(("in_features", 8), ("out_features", 8)), shape=(1, 8))
    other = dataclasses.replace(one, shape=(4, 8))
    rows = {one: {8: spread(1.0), 2: spread(2.0)}}
    found = Times(uses={"w": [one, one, other], "v": []}, table=rows)
    assert found.of((8, 2)) == {"w": [2.0, 4.0], "v": [0.0, 0.0]}
    assert found.differ()


def timed(slow: dict[int, float]) -> tuple[Plan, Times]:
    """A plan of 5 bits, and times of its layers, all alike."""
    task = Points()
    inputs, _ = next(task.batches("validation", 1))
    uses = kinds(task.model(), inputs)
    rows = {k: {b: spread(v) for b, v in slow.items()} for used in uses.values() for k in used}
    return Mixed(mean_bits=5).plan(Plan()), Times(uses=uses, table=rows)


def test_the_same_table_gives_the_same_weights_and_training_keeps_its_bits() -> None:
    task, (plan, times) = Points(), timed(SLOW)
    made = []
    for _ in range(2):
        found = allocation(task.model(), task, plan.encoding, times.of(WIDTHS))
        own = allotted(plan, found.bits)
        recipe = dataclasses.replace(own.recovery, steps=4, batch_size=32)
        trained = recover(task.model(), task.model(), task, recipe, seed=0, progress=_quiet)
        made.append((found, own, trained, encoded(trained, task, own.encoding)))
    (found, own, trained, stored), (again, other, same, _) = made
    assert found == again
    assert own == other
    assert all(torch.equal(a, b) for a, b in zip(_values(trained), _values(same), strict=True))
    untrained = encoded(task.model(), task, own.encoding)
    assert {n: c.bits for n, c in stored.codes.items()} == found.bits
    assert {n: c.bits for n, c in untrained.codes.items()} == found.bits
    assert not torch.equal(_values(stored.model)[0], _values(untrained.model)[0])
    # what was trained is what is stored
    inputs, _ = next(task.batches("validation", 16))
    torch.testing.assert_close(stored.model(inputs), trained(inputs), rtol=0, atol=1e-4)


def test_times_change_what_training_is_cached_by() -> None:
    plan, times = timed({8: 5.0, 6: 1.0, 4: 1.0, 3: 1.0, 2: 1.0})
    task = Points()
    bits = [allocation(task.model(), task, plan.encoding, t).bits for t in (times.of(WIDTHS), {})]
    assert 8 not in bits[0].values()
    assert 8 in bits[1].values()
    keys = {repr(allotted(plan, own).recovery) for own in bits}
    assert len(keys) == 2


def test_a_mean_of_32_bits_times_nothing() -> None:
    assert Mixed().plan(Plan()).encoding == Encoding()
    assert prepared(Mixed()) == (False, {})
    assert prepared(Mixed(mean_bits=4, latency=False)) == (
        False,
        {"by": "loss", "reason": "quantize.mixed.latency is false"},
    )
    assert prepared(Mixed(mean_bits=4)) == (True, {"by": "loss", "reason": "no clock"})


def prepared(setting: Mixed) -> tuple[bool, dict[str, Any]]:
    """Return whether a setting has layers timed, and what its bits follow from."""
    clock = Clock()
    facts = setting.prepare(Points().model(), setting.plan(Plan()), clock).facts
    return clock.asked, dict(facts)


@dataclasses.dataclass
class Clock:
    """The engine's tools, with a clock that does not run."""

    task: Task = dataclasses.field(default_factory=Points)
    example: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(1, 8))
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    asked: bool = False

    def time_alone(self, layers: object, encodings: object) -> Any:
        self.asked = True
        raise Untimed("no clock")


def _values(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def _quiet(step: int, steps: int, loss: float) -> None:
    """Ignore progress."""
