"""Recovery training and the distillation term."""

import contextlib
import copy
import dataclasses
import math
import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Infeasible, Recovery, Split, Task
from spaces.constraint import Constraint, Project
from spaces.devices.cpu import Cpu
from spaces.training.logits_term import distillation
from spaces.training.recovery import Diverged, recover, schedule

BLOBS = 4


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 8) around four centres, and the index of the centre."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(BLOBS, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, BLOBS, (count,), generator=generator)
    return centres[labels] + torch.randn(count, 8, generator=generator), labels


@dataclasses.dataclass
class Blobs(Task):
    """A trained network on blobs; each pass of training data is shuffled by a global generator."""

    source: str = "torch"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, BLOBS))

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        x, y = blobs(200, seed=1 if split == "train" else 2)
        order = {
            "torch": lambda: torch.randperm(200),
            "numpy": lambda: torch.from_numpy(np.random.permutation(200)),
            "random": lambda: torch.tensor(random.sample(range(200), 200)),
        }[self.source]()
        for rows in order.split(batch_size):
            yield x[rows], y[rows]

    def describe(self) -> dict[str, str]:
        return {"name": "blobs"}


def quiet(step: int, steps: int, loss: float) -> None:
    """Ignore progress."""


def train(
    task: Task, recovery: Recovery, model: nn.Module | None = None, *, reference: nn.Module
) -> nn.Module:
    """Recover the task's model or another one with seed 0."""
    model = task.model() if model is None else model
    return recover(model, reference, task, recovery, seed=0, progress=quiet)


def trained(task: Task) -> nn.Module:
    """The task's model after plain training."""
    return train(task, Recovery(steps=60, batch_size=32), reference=nn.Identity())


def damaged(model: nn.Module) -> nn.Module:
    """A copy with noise on its weights."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.5 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return model


def accuracy(task: Task, model: nn.Module) -> float:
    x, y = next(task.batches("validation", 200))
    with torch.no_grad():
        return task.score(model(x), y)


def weights(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in model.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class TestDistillation:
    def test_hand_computed(self) -> None:
        # Softened by T = 2, logits (2 ln 3, 0) are (3/4, 1/4) and (0, 0) are (1/2, 1/2).
        teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
        divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
        assert distillation(student, teacher, 2.0).item() == pytest.approx(4 * divergence)

    def test_is_zero_for_equal_outputs_and_averages_over_rows(self) -> None:
        logits = torch.randn(5, 3)
        other = logits.clone()
        other[0] = torch.tensor([0.0, 1.0, 2.0])
        assert distillation(logits, logits, 4.0).item() == pytest.approx(0, abs=1e-6)
        alone = distillation(other[:1], logits[:1], 1.0).item()
        assert distillation(other, logits, 1.0).item() == pytest.approx(alone / 5, rel=1e-4)

    def test_gradients_keep_their_size_when_the_temperature_changes(self) -> None:
        # For high T the gradient is (z - v) / N for zero-meaned logits, whatever T is.
        v, z = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, -0.5]], requires_grad=True)
        for temperature in (50.0, 100.0):
            (gradient,) = torch.autograd.grad(distillation(z, v, temperature), z)
            assert gradient.tolist() == [[pytest.approx(-0.25, 1e-2), pytest.approx(0.25, 1e-2)]]

    def test_single_column_is_a_squared_difference(self) -> None:
        for shape in ((2, 1), (2,)):
            student, teacher = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])
            term = distillation(student.view(shape), teacher.view(shape), 8.0)
            assert term.item() == pytest.approx((1 + 4) / 2)

    def test_probabilities_count_as_their_logarithms(self) -> None:
        student, teacher = torch.randn(3, 4), torch.randn(3, 4)
        ends = distillation(student.softmax(1), teacher.softmax(1), 2.0)
        assert ends.item() == pytest.approx(distillation(student, teacher, 2.0).item(), rel=1e-4)

    def test_maps_have_their_classes_second(self) -> None:
        student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
        flat = [t.permute(0, 2, 3, 1).reshape(-1, 3) for t in (student, teacher)]
        assert distillation(student, teacher, 2.0).item() == pytest.approx(
            distillation(flat[0], flat[1], 2.0).item(), rel=1e-4
        )

    def test_named_logits_are_preferred_to_hidden_states(self) -> None:
        student = {"logits": torch.zeros(1, 2), "hidden": torch.randn(1, 6)}
        teacher = {"logits": torch.ones(1, 2), "hidden": torch.randn(1, 6)}
        assert distillation(student, teacher, 1.0).item() == pytest.approx(0, abs=1e-6)

    def test_heads_of_a_tuple_are_averaged_and_changed_shapes_left_out(self) -> None:
        student = (
            torch.tensor([[0.0]]),
            torch.tensor([[3.0]]),
            torch.zeros(1, 5),
            torch.tensor(9.0),
        )
        teacher = (
            torch.tensor([[2.0]]),
            torch.tensor([[3.0]]),
            torch.zeros(1, 7),
            torch.tensor(1.0),
        )
        assert distillation(student, teacher, 1.0).item() == pytest.approx((4 + 0) / 2)

    def test_hard_labels_are_the_teachers_most_probable_classes(self) -> None:
        student, teacher = torch.randn(6, 3), torch.randn(6, 3)
        expected = F.cross_entropy(student, teacher.argmax(1)).item()
        for temperature in (1.0, 8.0):
            term = distillation(student, teacher, temperature, hard=True)
            assert term.item() == pytest.approx(expected)
        ends = distillation(student.softmax(1), teacher.softmax(1), 1.0, hard=True)
        assert ends.item() == pytest.approx(expected, rel=1e-4)
        maps = [t.T.reshape(1, 3, 2, 3) for t in (student, teacher)]
        assert distillation(*maps, 1.0, hard=True).item() == pytest.approx(expected)
        single = distillation(torch.zeros(2, 1), torch.ones(2, 1), 1.0, hard=True)
        assert single.item() == pytest.approx(1)

    def test_nothing_to_distill_is_a_reason(self) -> None:
        with pytest.raises(Infeasible, match=r"nothing to distill.*weight = 0"):
            distillation(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)


class TestRecover:
    def test_a_training_that_makes_it_worse_is_taken_back(self) -> None:
        task = Blobs()
        model = trained(task)
        before, outcomes = weights(model), []
        plan = Recovery(steps=20, batch_size=8, learning_rate=3.0, teacher_weight=1.0)
        recover(model, trained(task), task, plan, seed=0, progress=quiet, ended=outcomes.append)
        assert not outcomes[0].kept
        assert outcomes[0].after > outcomes[0].before
        assert equal(before, weights(model))

    def test_a_training_that_helps_is_kept(self) -> None:
        task, outcomes = Blobs(), []
        model, plan = task.model(), Recovery(steps=20, batch_size=32)
        before = weights(model)
        recover(model, nn.Identity(), task, plan, seed=0, progress=quiet, ended=outcomes.append)
        assert outcomes[0].kept
        assert not equal(before, weights(model))

    def test_a_training_that_helps_only_its_own_samples_is_taken_back(self) -> None:
        class Apart(Blobs):
            """Blobs whose validation split knows nothing better than the untrained model."""

            def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
                first = self.model().eval()
                for x, y in super().batches(split, batch_size):
                    yield x, (y if split == "train" else first(x).argmax(1))

        task, outcomes = Apart(), []
        model, plan = task.model(), Recovery(steps=40, batch_size=32)
        before = weights(model)
        recover(model, nn.Identity(), task, plan, seed=0, progress=quiet, ended=outcomes.append)
        assert not outcomes[0].kept
        assert outcomes[0].split == "validation"
        assert equal(before, weights(model))

    def test_a_loss_that_cannot_take_the_validation_split_is_no_error(self) -> None:
        class Soft(Blobs):
            """Blobs with soft targets where they are trained and names where they are scored."""

            def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
                for x, y in super().batches(split, batch_size):
                    yield (
                        x,
                        (F.one_hot(y, BLOBS).float() if split == "train" else list(map(str, y))),
                    )

        outcomes: list[Any] = []
        model, plan = Blobs().model(), Recovery(steps=20, batch_size=32)
        recover(model, nn.Identity(), Soft(), plan, seed=0, progress=quiet, ended=outcomes.append)
        assert outcomes[0].kept
        assert outcomes[0].split == "train"
        assert accuracy(Blobs(), model) > 0.5

    def test_recovers_a_damaged_model(self) -> None:
        task = Blobs()
        reference = trained(task)
        model, losses = damaged(reference), []
        before = accuracy(task, model)
        plan = Recovery(steps=60, temperature=2.0, teacher_weight=0.9, batch_size=32)
        result = recover(
            model, reference, task, plan, seed=0, progress=lambda *step: losses.append(step)
        )
        assert result is model
        assert not any(m.training for m in model.modules())
        assert accuracy(task, reference) > 0.9
        assert before < 0.8
        assert accuracy(task, model) > before + 0.1
        assert [step[:2] for step in losses] == [(i, 60) for i in range(1, 61)]
        assert sum(s[2] for s in losses[-10:]) < 0.5 * sum(s[2] for s in losses[:10])

    def test_harms_nothing_where_nothing_was_damaged(self) -> None:
        task = Blobs()
        reference = trained(task)
        model = copy.deepcopy(reference)
        train(task, Recovery(steps=60, temperature=4.0, batch_size=32), model, reference=reference)
        assert accuracy(task, model) >= accuracy(task, reference) - 0.01

    def test_no_steps_change_nothing(self) -> None:
        model = Blobs().model().train()
        before = weights(model)
        train(Blobs(), Recovery(), model, reference=model)
        assert equal(weights(model), before)
        assert not model.training

    def test_without_weight_the_teacher_is_never_run(self) -> None:
        class Untouchable(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                raise AssertionError("the teacher was run")

        task = Blobs()
        plan = Recovery(steps=2, teacher_weight=0.0)
        train(task, plan, reference=Untouchable())
        with pytest.raises(AssertionError, match="the teacher was run"):
            train(task, Recovery(steps=2, teacher_weight=0.5), reference=Untouchable())

    def test_with_all_weight_the_labels_are_never_used(self) -> None:
        class Unlabelled(Blobs):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                raise AssertionError("the labels were used")

        task = Unlabelled()
        plan = Recovery(steps=2, teacher_weight=1.0)
        model = damaged(task.model())
        before = [p.detach().clone() for p in model.parameters()]
        train(task, plan, model, reference=task.model())
        assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    def test_loss_mixes_both_terms(self) -> None:
        task = Blobs()
        reference, model = trained(task), task.model()
        x, y = next(task.batches("train", 200))
        model.train()
        outputs, taught = model(x), reference(x)
        expected = 0.3 * F.cross_entropy(outputs, y) + 0.7 * distillation(outputs, taught, 4.0)
        seen: list[float] = []
        plan = Recovery(
            steps=1, temperature=4.0, teacher_weight=0.7, batch_size=200, dtype="float32"
        )
        recover(model, reference, task, plan, seed=0, progress=lambda *s: seen.append(s[2]))
        assert seen == [pytest.approx(expected.item(), rel=1e-4)]

    @pytest.mark.parametrize("source", ["torch", "numpy", "random"])
    def test_same_seed_same_weights_whatever_generator_the_task_uses(self, source: str) -> None:
        task, plan = Blobs(source=source), Recovery(steps=4, teacher_weight=0.5, batch_size=16)
        reference = task.model()

        def run(seed: int) -> list[Tensor]:
            return weights(
                recover(damaged(reference), reference, task, plan, seed=seed, progress=quiet)
            )

        one = run(5)
        torch.rand(3), random.random(), np.random.rand()
        assert equal(one, run(5))
        assert not equal(one, run(6))

    @pytest.mark.parametrize("source", ["torch", "numpy", "random"])
    def test_generators_are_left_as_they_were(self, source: str) -> None:
        task = Blobs(source=source)
        model = task.model()
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        recover(model, model, task, Recovery(steps=2), seed=1, progress=quiet)
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])

    def test_reference_is_unchanged(self) -> None:
        task = Blobs()
        reference = task.model().train()
        before = weights(reference)
        plan = Recovery(steps=3, teacher_weight=0.9)
        train(task, plan, damaged(reference), reference=reference)
        assert equal(weights(reference), before)
        assert reference.training
        assert all(p.requires_grad and p.grad is None for p in reference.parameters())

    def test_frozen_parameters_stay(self) -> None:
        task = Blobs()
        model = damaged(task.model())
        model[0].requires_grad_(False)
        frozen, free = model[0].weight.clone(), model[3].weight.clone()
        train(task, Recovery(steps=3), model, reference=model)
        assert torch.equal(model[0].weight, frozen)
        assert not model[0].weight.requires_grad
        assert not torch.equal(model[3].weight, free)

    def test_all_frozen_is_a_reason(self) -> None:
        model = Blobs().model().requires_grad_(False)
        with pytest.raises(Infeasible, match="requires_grad = False"):
            train(Blobs(), Recovery(steps=1), model, reference=model)

    def test_leaves_no_gradients_and_plain_memory_layout(self) -> None:
        class Images(Blobs):
            def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
                for x, y in super().batches(split, batch_size):
                    yield x.view(-1, 2, 2, 2).double(), y

        network = nn.Sequential(nn.Conv2d(2, 8, 2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 4))
        model = network.to(torch.float64)
        before = model[0].weight.clone()
        plan = Recovery(steps=3, teacher_weight=0.5, batch_size=64)
        train(Images(), plan, model, reference=copy.deepcopy(model))
        assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
        assert model[0].weight.is_contiguous()
        assert not torch.equal(model[0].weight, before.float())
        assert model[1].p == 0.5

    def test_restarts_the_data_and_drops_ragged_ends(self) -> None:
        sizes: list[int] = []

        class Recording(Blobs):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                sizes.append(len(targets))
                return super().loss(outputs, targets)

        task = Recording()  # 200 = 2 x 90 + 20
        train(task, Recovery(steps=5, batch_size=90), reference=nn.Identity())
        assert sizes == [90] * 7  # one batch is judged by before the first step and after the last

    def test_fewer_samples_than_a_batch(self) -> None:
        sizes = []

        class Recording(Blobs):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                sizes.append(len(targets))
                return super().loss(outputs, targets)

        train(Recording(), Recovery(steps=2, batch_size=1000), reference=nn.Identity())
        assert sizes == [200] * 4  # two of them judge

    def test_no_data_is_an_error(self) -> None:
        class Empty(Blobs):
            def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
                return iter(())

        with pytest.raises(ValueError, match="yields nothing to train on"):
            train(Empty(), Recovery(steps=1), reference=nn.Identity())

    def test_loss_must_be_scalar(self) -> None:
        class Unreduced(Blobs):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                return F.cross_entropy(outputs, targets, reduction="none")

        with pytest.raises(TypeError, match=r"must be a scalar tensor, got shape \(200,\)"):
            train(Unreduced(), Recovery(steps=1), reference=nn.Identity())

    def test_dict_inputs_and_outputs(self) -> None:
        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(8, BLOBS)

            def forward(self, points: Tensor, scale: Tensor) -> dict[str, Tensor | None]:
                logits = self.linear(points * scale)
                return {"loss": None, "logits": logits, "hidden": points}

        class Dicts(Blobs):
            def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
                for x, y in super().batches(split, batch_size):
                    yield {"points": x, "scale": torch.ones(len(x), 1)}, {"label": y}

            def loss(self, outputs: Any, targets: Any) -> Tensor:
                return F.cross_entropy(outputs["logits"], targets["label"])

        losses: list[float] = []
        plan = Recovery(steps=60, teacher_weight=0.1, learning_rate=0.05, batch_size=32)
        torch.manual_seed(0)
        recover(Named(), Named(), Dicts(), plan, seed=0, progress=lambda *s: losses.append(s[2]))
        assert losses[-1] < 0.5 * losses[0]


def test_a_device_with_a_counter_of_its_own_tells_the_peak_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def peak(self: Cpu, work: Callable[[], object]) -> int:
        work()
        return 7

    task, plan = Blobs(), Recovery(steps=2, batch_size=50)
    outcomes = []
    for _ in range(2):
        recover(
            task.model(), nn.Identity(), task, plan, seed=0, progress=quiet, ended=outcomes.append
        )
        monkeypatch.setattr(Cpu, "peak_memory", peak)
    assert outcomes[1] == dataclasses.replace(outcomes[0], memory=7)
    assert outcomes[0].memory is None


class TestDiverged:
    def test_explosion_names_the_rate_and_the_remedy(self) -> None:
        class Exploding(Blobs):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                return (outputs**2).exp().mean()

        task, plan = Exploding(), Recovery(steps=20, learning_rate=100.0)
        with pytest.raises(Diverged, match=r"diverged at step.*learning_rate to"):
            train(task, plan, reference=nn.Identity())

    def test_before_the_first_update_the_rate_is_not_to_blame(self) -> None:
        class Broken(Blobs):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                return outputs.sum() * math.nan

        with pytest.raises(Diverged, match=r"cannot start.*loss is nan.*Check the task's loss"):
            train(Broken(), Recovery(steps=2), reference=nn.Identity())

    def test_survives_the_way_between_processes(self) -> None:
        error = Diverged(7, math.inf, 0.01)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert "0.001" in str(error)


class TestSchedule:
    def test_rises_linearly_then_falls_to_nearly_zero(self) -> None:
        shares = [schedule(step, 50) for step in range(1, 51)]
        assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert shares[4:] == sorted(shares[4:], reverse=True)
        assert 0 < shares[-1] < 0.01

    def test_one_step_is_taken_in_full(self) -> None:
        assert schedule(1, 1) == 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor(Constraint):
    """Keeps every bias at a value."""

    value: float

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        del task

        def project() -> None:
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.data.fill_(self.value)

        yield project


def test_training_keeps_to_a_constraint() -> None:
    task = Blobs()
    recipe = Recovery(steps=5, batch_size=32, constraints=(Floor(value=0.25),))
    model, before = train(task, recipe, reference=nn.Identity()), task.model().state_dict()
    after = model.state_dict()
    assert all(bool((after[name] == 0.25).all()) for name in after if name.endswith("bias"))
    assert not torch.equal(after["0.weight"], before["0.weight"])
