"""Training with rounded activations: weights that bear it, and nothing else is left behind."""

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from _blobs import Dicts, Images, blobs, clusters, damaged, train
from torch import Tensor, nn

from spaces import Plan, Recovery, Split, Task
from spaces.constraint import Constraint
from spaces.devices import cpu
from spaces.pruning.single import KeepZeros
from spaces.quantization.activations import Activations, _Round
from spaces.quantization.straight import Grid
from spaces.techniques.quantize.integer import Integer
from spaces.training.mixed_precision import in_float8

ROUNDED = Recovery(steps=8, batch_size=50, constraints=(Activations(),))


def trained(task: Task, recovery: Recovery, model: nn.Module | None = None) -> nn.Module:
    return train(task, recovery, model or damaged(task.model()))


def asked(**bits: int) -> tuple[Constraint, ...]:
    return Integer(**bits).plan(Plan()).recovery.constraints


def test_only_settings_that_round_activations_ask_for_it() -> None:
    for setting in ({}, {"weight_bits": 8}, {"weight_bits": 4}):
        assert Activations() not in asked(**setting)
    assert Activations() in asked(weight_bits=4, activation_bits=8)
    # steps are taken from what layers read when their weights are rounded already
    assert [type(c) for c in asked(weight_bits=2, activation_bits=8)] == [Grid, Activations]


def test_what_hardly_hurts_is_tolerated() -> None:
    def weights(*constraints: Constraint) -> Tensor:
        recovery = dataclasses.replace(ROUNDED, constraints=constraints)
        return trained(Images(), recovery).get_parameter("3.weight")

    without = weights()
    assert asked(weight_bits=8, activation_bits=8) == (Activations(tolerance=0.01),)
    assert torch.equal(weights(Activations(tolerance=0.01)), without)
    assert not torch.equal(weights(Activations(tolerance=1e-9)), without)
    assert not torch.equal(weights(Activations(bits=2, tolerance=0.01)), without)


def inventory(model: nn.Module) -> list[Any]:
    """Names, kinds, hooks and shapes of all that a model consists of."""
    modules = [
        (name, type(m), len(m._forward_pre_hooks), len(m._forward_hooks), m.training)
        for name, m in model.named_modules()
    ]
    return [*modules, *sorted((name, t.shape) for name, t in model.state_dict().items())]


class Named(nn.Module):
    """Calls a layer by the name of its argument, another twice, and one never."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.twice, self.spare = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 4)

    def forward(self, points: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(input=points)).relu())
        attended, _ = self.attention(x[:, None], x[:, None], x[:, None])
        return self.last(attended[:, 0])  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Points(Task):
    """A network of linear layers on points around four centres."""

    def model(self) -> nn.Module:
        return Named().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        x, y = blobs(256, seed=1 if split == "train" else 2)
        for rows in torch.arange(256).split(batch_size):
            yield x[rows], y[rows]

    def describe(self) -> dict[str, str]:
        return {"name": "points"}


@pytest.mark.parametrize(
    ("task", "constraints"),
    [
        (Images(), (Activations(),)),
        (Images(), (Grid(weight_bits=4), Activations())),
        (Dicts(), (KeepZeros(), Activations())),
        (Points(), (Activations(),)),
        (Points(), (Grid(weight_bits=4), Activations())),
        (Images(), (Activations(), Grid(mean_bits=4))),
    ],
)
def test_nothing_is_left_of_it(task: Task, constraints: tuple[Constraint, ...]) -> None:
    before = inventory(task.model())
    model = trained(task, dataclasses.replace(ROUNDED, constraints=constraints))
    assert inventory(model) == before
    copy.deepcopy(model).load_state_dict(task.model().state_dict())


def test_nothing_is_left_of_it_when_training_fails() -> None:
    class Failing(Images):
        def loss(self, outputs: Any, targets: Any) -> Tensor:
            return super().loss(outputs, targets) * float("nan")

    model = Images().model()
    with pytest.raises(RuntimeError, match="the loss is nan"):
        trained(Failing(), ROUNDED, model)
    assert inventory(model.eval()) == inventory(Images().model())


class Mixture(nn.Module):
    """Every sample goes to the expert whose gate is the widest open; one gate is always shut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            self.gate.bias[2] = -1e3

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x).argmax(1)
        found = x.new_zeros(len(x), 16)
        for number, expert in enumerate(self.experts):
            found = found.index_put(
                ((chosen == number).nonzero()[:, 0],), expert(x[chosen == number])
            )
        return self.head(found)  # type: ignore[no-any-return]


class Sent(Points):
    """Points that a mixture of experts classifies."""

    def model(self) -> nn.Module:
        return Mixture().eval()


@pytest.mark.parametrize("weight_bits", [8, 4, 2])
def test_experts_that_no_sample_is_sent_to_are_left_alone(weight_bits: int) -> None:
    task = Sent()
    recovery = dataclasses.replace(
        ROUNDED, constraints=asked(weight_bits=weight_bits, activation_bits=8)
    )
    model = trained(task, recovery, task.model())
    assert loss(model, task) < loss(task.model(), task)
    assert inventory(model) == inventory(task.model())


def test_an_expert_may_be_left_out_after_it_was_measured() -> None:
    task, model = Sent(), Mixture()
    with Activations().hold(model, task):
        model(torch.zeros(1, 8)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("others", [(), (Grid(weight_bits=4),)])
def test_layers_read_at_most_256_values_while_they_are_held(others: tuple[Grid, ...]) -> None:
    task, model, watched = Images(), Images().model(), {}
    inputs, _ = next(task.batches("train", 128))
    with contextlib.ExitStack() as held:
        for constraint in (*others, Activations()):
            held.enter_context(constraint.hold(model, task))
        for name in ("0", "3", "7"):
            model.get_submodule(name).register_forward_pre_hook(
                lambda module, args, name=name: watched.update({name: args[0].detach()})
            )
        model(inputs)
        seen = dict(watched)
    assert all(2 < len(values.unique()) <= 256 for values in seen.values())
    assert (seen["0"] < 0).any()  # images are signed, what leaves a ReLU is not
    assert (seen["3"] >= 0).all()
    assert seen["3"].unique().diff().min() == pytest.approx(float(seen["3"].max() / 255), rel=0.5)


@pytest.mark.parametrize("ends", [(0, 255), (-100, 155)])
def test_gradients_pass_straight_through_and_reach_the_step(ends: tuple[int, int]) -> None:
    """As automatic differentiation has them of the formula in section 2.1 of LSQ."""
    generator = torch.Generator().manual_seed(0)
    values, slope = torch.randn(2, 64, 8, generator=generator)
    found = []
    for written_out in (True, False):
        x, step = values.clone().requires_grad_(), torch.tensor([0.01], requires_grad=True)
        if written_out:
            y = _Round.apply(x, step, *ends)
        else:
            inside = (x / step).clamp(*ends)
            y = (inside + (inside.round() - inside).detach()) * step
        y.backward(slope)
        found.append((y.detach(), x.grad, step.grad))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_the_same_seed_trains_the_same_weights() -> None:
    first, second = (trained(Images(), ROUNDED).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    without = trained(Images(), dataclasses.replace(ROUNDED, constraints=())).state_dict()
    assert any(not torch.equal(first[name], without[name]) for name in first)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_trains_in_mixed_precision(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_native", lambda dtype: True)
    task = Images()
    model = trained(task, dataclasses.replace(ROUNDED, steps=20, dtype=dtype))
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert loss(model, task) < loss(damaged(task.model()), task)


def loss(model: nn.Module, task: Task) -> float:
    inputs, labels = next(task.batches("validation", 2048))
    with torch.no_grad():
        return float(task.loss(model(inputs), labels))


def test_layers_in_float8_round_by_themselves() -> None:
    task = Dicts()
    model = task.model()
    with Activations().hold(model, task), in_float8(model, emulate=True):
        inputs, _ = next(task.batches("train", 32))
        assert model(**inputs)["logits"].isfinite().all()
    assert inventory(model) == inventory(task.model())


@dataclasses.dataclass(frozen=True, eq=False)
class Deep(Task):
    """Points around eight centres, and a network so deep that errors of two bits add up."""

    weights: dict[str, Tensor]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        widths = [64, *[32] * 6]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(32, 8)).eval()
        model.load_state_dict(self.weights or model.state_dict())
        return model

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        yield from clusters(split, batch_size, count=2048, classes=8, width=64, apart=0.3)

    def describe(self) -> dict[str, str]:
        return {"name": "deep"}


def calibrated(model: nn.Module, task: Task, bits: int) -> nn.Module:
    """As a runtime would: a copy that rounds in the ranges found on training samples."""
    model, top = copy.deepcopy(model), 2**bits - 1
    ranges: dict[nn.Module, tuple[float, float]] = {}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]

    def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        ranges[module] = min(0.0, float(args[0].min())), max(0.0, float(args[0].max()))

    def enter(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        low, high = ranges[module]
        step = (high - low) / top
        return torch.fake_quantize_per_tensor_affine(args[0], step, round(-low / step), 0, top)

    handles = [m.register_forward_pre_hook(watch) for m in linear]
    with torch.no_grad():
        model(next(task.batches("train", 256))[0])
    for handle in handles:
        handle.remove()
    for module in linear:
        module.register_forward_pre_hook(enter)
    return model


def test_models_trained_with_rounding_bear_it_better() -> None:
    first = Deep({})
    start = trained(first, Recovery(steps=150, batch_size=64), first.model())
    task = Deep(start.state_dict())
    found = {}
    for constraints in ((), (Activations(bits=2),)):
        recovery = Recovery(steps=60, batch_size=64, constraints=constraints)
        model = trained(task, recovery, task.model())
        found[len(constraints)] = loss(calibrated(model, task, 2), task)
    untrained = loss(calibrated(task.model(), task, 2), task)
    assert untrained > loss(task.model(), task) + 0.3  # rounding hurts here
    assert found[1] < 0.9 * min(found[0], untrained)
