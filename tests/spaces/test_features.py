"""Features: which layers are compared, through which projections, and what stays of them."""

import copy

import pytest
import torch
from _blobs import Dicts, Images, Residual, damaged
from torch import nn

from spaces import Infeasible, Recovery
from spaces.training.features_term import blocks, candidates, matched, tapped
from spaces.training.recovery import recover


def narrowed(model: nn.Module, width: int) -> nn.Module:
    """A student whose residual stream kept the first `width` channels."""
    student = Residual(width)
    student.embed.load_state_dict({k: v[:width] for k, v in model.embed.state_dict().items()})
    return student.eval()


class Dropped(nn.Module):
    """What is left of a block that was dropped."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


POINTS = {"points": torch.randn(32, 8), "scale": torch.ones(1, 8)}


class TestLayers:
    def test_blocks_are_composite_children_of_lists_and_sequences(self) -> None:
        assert blocks(Dicts().model()) == ["blocks.0", "blocks.1", "blocks.2"]
        stages = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Sequential(nn.Linear(2, 2))))
        assert blocks(stages) == ["1"]

    def test_attention_is_compared_beside_blocks(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        expected = ["layers.0", "layers.0.self_attn", "layers.1", "layers.1.self_attn"]
        assert candidates(encoder, encoder) == expected

    def test_without_blocks_all_layers_but_the_last_are(self) -> None:
        model = Images().model()
        assert candidates(model, model) == ["0", "3"]

    def test_a_dropped_block_is_skipped(self) -> None:
        teacher = Dicts().model()
        student = copy.deepcopy(teacher)
        student.blocks[1] = Dropped()
        assert matched(student, teacher, POINTS, 0).names == ("blocks.0", "blocks.2")

    def test_a_limit_keeps_layers_evenly_and_the_last(self) -> None:
        model = Dicts().model()
        assert matched(model, model, POINTS, 1).names == ("blocks.2",)
        assert matched(model, model, POINTS, 2).names == ("blocks.0", "blocks.2")

    def test_nothing_to_compare_is_a_reason(self) -> None:
        model = nn.Sequential(nn.Linear(8, 3))
        with pytest.raises(Infeasible, match=r"distill\.features finds no inner layer"):
            matched(model, model, torch.randn(4, 8), 0)


class TestTerm:
    def seen(self, model: nn.Module, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        with tapped(model, names) as tap, torch.no_grad():
            model(**POINTS)
        return tap.take()

    def test_is_the_mean_relative_squared_distance(self) -> None:
        teacher = Dicts().model()
        student = damaged(teacher)
        match = matched(student, teacher, POINTS, 0)
        mine, taught = (self.seen(m, match.names) for m in (student, teacher))
        expected = [
            ((mine[n] - taught[n]).square().mean() / taught[n].square().mean()).item()
            for n in match.names
        ]
        assert match(mine, taught).item() == pytest.approx(sum(expected) / 3, rel=1e-4)
        assert match(taught, taught).item() == 0
        assert not list(match.parameters())

    def test_projections_start_at_the_least_squares_solution(self) -> None:
        teacher = Dicts().model()
        student = narrowed(teacher, 8)
        match = matched(student, teacher, POINTS, 0)
        assert [tuple(p.weight.shape) for p in match.projections.values()] == [(16, 8)] * 3
        mine, taught = (self.seen(m, match.names) for m in (student, teacher))
        best = match(mine, taught).item()
        assert best < 1
        for parameter in match.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
            assert match(mine, taught).item() > best

    def test_channels_of_images_are_projected_at_each_place(self) -> None:
        teacher = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1))
        student = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
        images = torch.randn(5, 2, 3, 3)
        match = matched(student, teacher, images, 0)
        assert match.names == ("0",)
        assert match.project("0", student[0](images)).shape == (5, 6, 3, 3)


class TestTraining:
    def losses(self, student: nn.Module, recovery: Recovery) -> list[float]:
        losses: list[float] = []
        task = Dicts()
        recover(
            student,
            task.model(),
            task,
            recovery,
            seed=0,
            progress=lambda *step: losses.append(step[2]),
        )
        return losses

    def test_brings_features_nearer_and_leaves_nothing_on_the_student(self) -> None:
        teacher = Dicts().model()
        student = narrowed(teacher, 8)
        names, before = set(student.state_dict()), copy.deepcopy(student)
        recipe = Recovery(
            steps=40, feature_weight=10.0, teacher_weight=1.0, learning_rate=3e-3, batch_size=65
        )
        losses = self.losses(student, recipe)
        assert losses[-1] < 0.8 * losses[0]
        assert set(student.state_dict()) == names
        assert not any(m._forward_hooks for m in (*student.modules(), *teacher.modules()))
        distances = []
        for model in (before, student):
            match = matched(model, teacher, POINTS, 0)
            seen = TestTerm().seen
            distances.append(match(seen(model, match.names), seen(teacher, match.names)).item())
        assert distances[1] < distances[0]

    def test_needs_no_teacher_of_the_outputs(self) -> None:
        recipe = Recovery(steps=3, feature_weight=1.0, batch_size=32)
        assert len(self.losses(damaged(Dicts().model()), recipe)) == 3

    def test_without_weight_no_hook_is_set(self) -> None:
        student = damaged(Dicts().model())
        seen: list[int] = []
        student.register_forward_pre_hook(
            lambda module, _: seen.append(sum(len(m._forward_hooks) for m in module.modules()))
        )
        self.losses(student, Recovery(steps=2, teacher_weight=0.5, batch_size=32))
        assert set(seen) == {0}
