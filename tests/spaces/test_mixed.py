"""Number formats of recovery training: who can, what it changes, and what stays float32."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from _blobs import Dicts, Images, Residual, damaged
from torch import Tensor, nn

from spaces import Infeasible, Outputs, Plan, Recovery
from spaces.devices import cpu
from spaces.techniques.precision.training import Training
from spaces.training import mixed_precision
from spaces.training.mixed_precision import in_float8, refusal
from spaces.training.recovery import Diverged, recover

RECIPE = Recovery(steps=12, batch_size=50, teacher_weight=0.5)


def losses(
    recovery: Recovery, task: Any, device: str = "cpu", model: nn.Module | None = None
) -> list[float]:
    """The losses of a recovery from a damaged model."""
    found: list[float] = []
    reference = task.model().to(device)
    recover(
        damaged(reference) if model is None else model,
        reference,
        task,
        recovery,
        seed=0,
        progress=lambda *step: found.append(step[2]),
    )
    return found


class TestTechnique:
    def test_without_training_the_type_is_dead(self) -> None:
        setting = Training(dtype="float32")
        assert setting.settled(Plan(), Outputs()) == Training()
        trained = Plan(recovery=Recovery(steps=5))
        assert setting.settled(trained, Outputs()) == setting
        assert setting.plan(trained).recovery.dtype == "float32"

    def test_unknown_types_are_refused(self) -> None:
        with pytest.raises(ValueError, match="dtype must be one of auto, float32"):
            Training(dtype="float64")


class TestRefusal:
    def test_names_the_type_and_why(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cpu, "_native", lambda dtype: False)
        for dtype in ("bfloat16", "float16"):
            reason = refusal(Recovery(steps=1, dtype=dtype), "cpu")
            assert reason is not None
            assert f"{dtype} is only emulated" in reason
        with pytest.raises(Infeasible, match="float16 is only emulated"):
            losses(dataclasses.replace(RECIPE, dtype="float16"), Images())

    def test_float8_needs_a_gpu_that_has_it(self) -> None:
        with pytest.raises(Infeasible, match=r"compute capability 8\.9"):
            losses(dataclasses.replace(RECIPE, dtype="float8"), Images())

    @pytest.mark.parametrize("recovery", [Recovery(), Recovery(steps=1), Recovery(dtype="float8")])
    def test_nothing_is_refused_that_is_not_asked_for(self, recovery: Recovery) -> None:
        assert refusal(recovery, "cpu") is None


class TestHalf:
    @pytest.fixture(autouse=True)
    def able(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Emulated types count as native: slow, but the same numbers."""
        monkeypatch.setattr(cpu, "_native", lambda dtype: True)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_learns_about_as_in_float32(self, dtype: str) -> None:
        single = losses(dataclasses.replace(RECIPE, dtype="float32"), Images())
        half = losses(dataclasses.replace(RECIPE, dtype=dtype), Images())
        assert half != single
        assert half == pytest.approx(single, rel=0.1, abs=0.05)

    def test_float16_leaves_out_steps_that_overflow_and_scales_less(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mixed_precision, "SCALE", 2.0**24)
        task, model = Images(), damaged(Images().model())
        before = copy.deepcopy(model.state_dict())
        one = dataclasses.replace(RECIPE, dtype="float16", steps=1)
        losses(one, task, model=model)
        after = model.state_dict()
        assert torch.equal(before["0.weight"], after["0.weight"])
        found = losses(dataclasses.replace(one, steps=30), task)
        assert all(math.isfinite(v) for v in found)
        assert found[-1] < found[0]

    def test_float16_that_never_fits_has_diverged(self) -> None:
        class Steep(Images):
            def loss(self, outputs: Any, targets: Any) -> Tensor:
                return outputs.sum() * 1e30

        with pytest.raises(Diverged):
            losses(dataclasses.replace(RECIPE, dtype="float16", steps=40), Steep())


class TestFloat8:
    def model(self) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5))

    def test_changes_only_layers_that_kernels_take_and_gives_them_back(self) -> None:
        model = self.model()
        layers, parameters = list(model), list(model.parameters())
        x = torch.randn(48, 32)
        exact = model(x)
        with in_float8(model, emulate=True):
            assert type(model[0]).__name__ == "Float8Linear"
            assert model[2] is layers[2]
            rough = model(x)
            rough.square().mean().backward()
        assert list(model) == layers
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        assert all(p.grad is not None for p in parameters)
        error = (rough - exact).square().mean() / exact.square().mean()
        assert 0 < error < 0.01

    def test_no_layer_that_fits_is_a_reason(self) -> None:
        with (
            pytest.raises(Infeasible, match="widths must be multiples of 16"),
            in_float8(nn.Sequential(nn.Linear(8, 3))),
        ):
            pass


class Wide(Dicts):
    """As the transformer-like network, wide enough for float8."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Residual(64).eval()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnAGpu:
    @pytest.mark.parametrize("task", [Images(), Wide()])
    @pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
    def test_half_precision_learns_about_as_in_float32(self, dtype: str, task: Any) -> None:
        single = losses(dataclasses.replace(RECIPE, dtype="float32"), task, "cuda")
        half = losses(dataclasses.replace(RECIPE, dtype=dtype), task, "cuda")
        assert half == pytest.approx(single, rel=0.1, abs=0.05)

    @pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
        reason="needs float8 tensor cores",
    )
    def test_float8_learns_about_as_in_float32(self) -> None:
        single = losses(dataclasses.replace(RECIPE, dtype="float32"), Wide(), "cuda")
        rough = losses(dataclasses.replace(RECIPE, dtype="float8"), Wide(), "cuda")
        assert rough != single
        assert rough == pytest.approx(single, rel=0.2, abs=0.1)

    def test_weights_stay_float32(self) -> None:
        model = damaged(Images().model().cuda())
        losses(dataclasses.replace(RECIPE, dtype="float16"), Images(), "cuda", model)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert all(bool(p.isfinite().all()) for p in model.parameters())
