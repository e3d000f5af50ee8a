"""Training with few bits: it ends on the grid, keeps zeros and gains on rounding alone."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _blobs import clusters, train
from torch import Tensor, nn

from spaces import Encoding, Plan, Recovery, Split, Task
from spaces.constraint import Constraint
from spaces.quantization.allocation import Sensitivity, allocated, widths
from spaces.quantization.encode import encoded
from spaces.quantization.straight import Grid
from spaces.quantization.tied import Tied
from spaces.techniques.quantize.clusters import Clusters
from spaces.techniques.quantize.integer import Integer
from spaces.techniques.quantize.mixed import Mixed


@dataclasses.dataclass
class Blobs(Task):
    """A network trained on points around four centres, with normalised hidden layers."""

    def model(self) -> nn.Module:
        return copy.deepcopy(TRAINED[0])

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        yield from clusters(split, batch_size, count=512, classes=4, width=16, apart=1.5)

    def describe(self) -> dict[str, str]:
        return {"name": "blobs"}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    ).eval()


TRAINED: list[nn.Module] = []


@pytest.fixture(scope="module", autouse=True)
def _trained() -> Iterator[None]:
    task = Blobs()
    TRAINED.append(network())
    TRAINED[:] = [train(task, Recovery(steps=80, batch_size=64))]
    yield
    TRAINED.clear()


def loss(model: nn.Module) -> float:
    inputs, labels = next(Blobs().batches("validation", 512))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(inputs), labels))


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(next(Blobs().batches("validation", 64))[0])  # type: ignore[no-any-return]


SETTINGS = [
    *((Integer(weight_bits=b), b) for b in (4, 3, 2, 1)),
    (Integer(weight_bits=2, symmetric=True), 2),
    (Integer(weight_bits=3, granularity="channel"), 3),
    (Mixed(mean_bits=3), None),
    (Clusters(bits=3), 3),
]


@pytest.mark.parametrize(("setting", "bits"), SETTINGS)
def test_what_training_ends_with_is_what_is_stored(setting: Any, bits: int | None) -> None:
    task, plan = Blobs(), setting.plan(Plan())
    assert len(plan.recovery.constraints) == 1
    recovery = dataclasses.replace(plan.recovery, steps=6, batch_size=64, teacher_weight=0.5)
    trained = train(task, recovery)
    assert {n for n, _ in trained.named_parameters()} == {
        n for n, _ in task.model().named_parameters()
    }
    stored = encoded(trained, task, plan.encoding)
    torch.testing.assert_close(outputs(stored.model), outputs(trained), rtol=0, atol=1e-4)
    if bits is not None:
        assert stored.codes["3.weight"].bits == bits


@pytest.mark.parametrize("bits", [2, 1])
def test_training_gains_on_rounding_alone(bits: int) -> None:
    task, setting = Blobs(), Integer(weight_bits=bits)
    plan = setting.plan(Plan())
    rounded = loss(encoded(task.model(), task, plan.encoding).model)
    recovery = dataclasses.replace(plan.recovery, steps=60, batch_size=64)
    trained = loss(train(task, recovery))
    assert trained < 0.8 * rounded
    assert trained < loss(task.model()) + 0.2


def test_training_starts_from_rounding_that_makes_up_for_its_errors() -> None:
    task, plan = Blobs(), Integer(weight_bits=2).plan(Plan())
    held = task.model()
    with plan.recovery.constraints[0].hold(held, task):
        pass
    rounded = encoded(task.model(), task, plan.encoding).model
    torch.testing.assert_close(outputs(held), outputs(rounded), rtol=0, atol=1e-3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zeros(Constraint):
    """Keeps weights of one layer at zero, through the parameter as it was found."""

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Callable[[], None]]:
        del task
        weight = model.get_parameter("3.weight")
        zero = weight.detach() == 0

        def project() -> None:
            weight.data[zero] = 0

        yield project


@pytest.mark.parametrize(
    "constraint", [Grid(weight_bits=3), Grid(weight_bits=1), Grid(mean_bits=3), Tied(bits=3)]
)
def test_pruned_weights_stay_zero(constraint: Constraint) -> None:
    task, model = Blobs(), Blobs().model()
    weight = model.get_parameter("3.weight")
    weight.data[weight.abs() < weight.abs().median()] = 0
    zero = weight == 0
    recovery = Recovery(steps=5, batch_size=64, constraints=(Zeros(), constraint))
    trained = train(task, recovery, model).get_parameter("3.weight")
    assert bool((trained[zero] == 0).all())
    assert bool((trained[~zero] != 0).any())


def test_tied_weights_take_few_values_and_those_are_trained() -> None:
    task, plan = Blobs(), Clusters(bits=2).plan(Plan())
    rounded = loss(encoded(task.model(), task, plan.encoding).model)
    recovery = dataclasses.replace(plan.recovery, steps=40, batch_size=64)
    trained = train(task, recovery)
    assert all(len(trained.get_parameter(f"{i}.weight").unique()) <= 4 for i in (0, 3, 6, 8))
    assert loss(trained) < rounded


def test_bits_go_where_rounding_costs_most() -> None:
    costs = {"dear": [0.0, 1.0, 10.0, 20.0, 40.0], "cheap": [0.0, 0.01, 0.02, 0.03, 0.1]}
    measured = Sensitivity(costs=costs, error=1.0)
    found = allocated(measured, {"dear": 100, "cheap": 100}, 5.0, {})
    assert found.bits == {"dear": 8, "cheap": 2}
    assert set(allocated(measured, {"dear": 1, "cheap": 1}, 2, {}).bits.values()) == {2}
    assert set(allocated(measured, {"dear": 1, "cheap": 1}, 8, {}).bits.values()) == {8}


@pytest.mark.parametrize("mean", [6.0, 4.0, 3.0])
def test_a_mean_is_kept_and_nearly_used_up(mean: float) -> None:
    task = Blobs()
    model = task.model()
    model[0].requires_grad_(False)  # type: ignore[index]
    found = widths(model, task, Encoding(mean_bits=mean))
    sizes = {name: model.get_parameter(name).numel() for name in found}
    used = sum(found[n] * sizes[n] for n in found) / sum(sizes.values())
    assert mean - 0.6 < used <= mean
    assert not model.get_parameter("0.weight").requires_grad


def test_settings_that_change_nothing_are_neutral() -> None:
    assert Integer(granularity="group", calibration="entropy").canonical() == Integer()
    assert Integer(weight_bits=8).plan(Plan()).recovery.constraints == ()
    assert Mixed(granularity="channel").canonical() == Mixed()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (Integer, {"weight_bits": 5}, "weight_bits must be 32, 8, 4, 3, 2 or 1, got 5"),
        (Integer, {"calibration": "mean"}, "calibration must be min-max, percentile or entropy"),
        (Mixed, {"mean_bits": 1}, "mean_bits must be 32 or from 2 to 8, got 1"),
        (Clusters, {"bits": 9}, "bits must be 32 or from 1 to 8, got 9"),
    ],
)
def test_impossible_settings_are_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**fields)
