"""What every technique of the catalogue promises; a new file is tested with no edit here."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from _models import Residual, convolutions
from torch import Tensor, nn

from search import catalogue
from spaces import Plan, Split, Stage, Task, Technique
from spaces.devices import device_of
from spaces.modules.on_device import placed
from spaces.quantization.encode import encoded
from spaces.training.recovery import recover


class Small(Task):
    """A small network of convolutions and residual blocks, on random images."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        blocks = Residual(32), Residual(32)
        return nn.Sequential(*convolutions(16, 32, pixels=1), *blocks, nn.Linear(32, 4)).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        inputs = torch.randn(64, 3, 8, 8, generator=generator)
        for rows in torch.arange(64).split(batch_size):
            yield inputs[rows], rows % 4

    def describe(self) -> dict[str, str]:
        return {"name": "small"}


@pytest.fixture(params=catalogue.names("technique"))
def technique(request: pytest.FixtureRequest) -> type[Technique]:
    return catalogue.find("technique", request.param, Technique)


def searched(technique: type[Technique]) -> dict[str, Any]:
    return {f.name: f for f in dataclasses.fields(technique) if "dimension" in f.metadata}


def test_every_dimension_has_a_unit_and_holds_its_neutral_value(
    technique: type[Technique],
) -> None:
    assert searched(technique)
    for field in searched(technique).values():
        assert field.metadata["unit"]
        assert field.metadata["dimension"].holds(field.default)


def test_the_neutral_setting_changes_nothing(technique: type[Technique]) -> None:
    task = Small()
    inputs, _ = next(task.batches("validation", 8))
    after = technique().apply(task.model(), task)
    assert torch.equal(task.model()(inputs), after.eval()(inputs))
    assert technique().canonical() == technique()
    if technique.stage is not Stage.DEPLOY:
        assert technique().plan(Plan()) == Plan()


def test_every_value_builds_a_setting_that_does_something(technique: type[Technique]) -> None:
    for name, field in searched(technique).items():
        for value in field.metadata["dimension"].values() or ():
            setting = dataclasses.replace(technique(), **{name: value})
            assert setting.canonical().canonical() == setting.canonical()


def test_usual_settings_are_searchable_and_not_neutral(technique: type[Technique]) -> None:
    for setting in technique().usual():
        assert setting != technique()
        for name, field in searched(technique).items():
            assert field.metadata["dimension"].holds(getattr(setting, name))


def test_the_reference_is_not_edited_and_the_same_setting_builds_the_same(
    technique: type[Technique],
) -> None:
    task = Small()
    for setting in technique().usual()[:1]:
        before = {k: v.clone() for k, v in task.model().state_dict().items()}
        first = setting.apply(task.model(), task).state_dict()
        second = setting.apply(task.model(), task).state_dict()
        assert all(torch.equal(first[k], second[k]) for k in first)
        assert all(torch.equal(before[k], v) for k, v in task.model().state_dict().items())


def built(setting: Technique, device: str, steps: int = 0) -> nn.Module:
    """The candidate at one setting, all computed on `device`."""
    task = Small()
    plan = setting.plan(Plan())
    with device_of(device).exact():
        model = setting.apply(task.model().to(device), placed(task, device))
    recipe = dataclasses.replace(
        plan.recovery, steps=steps, batch_size=16, teacher_weight=0.5, devices=1
    )
    model = recover(model, task.model(), task, recipe, seed=0, progress=lambda *_: None).cpu()
    return encoded(model, task, plan.encoding, device).model if plan.encoding.packed else model


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_builds_what_the_cpu_builds(technique: type[Technique]) -> None:
    inputs, _ = next(Small().batches("validation", 64))
    for setting in technique().usual():
        here, there = (built(setting, device)(inputs) for device in ("cpu", "cuda"))
        assert (here - there).norm() < 0.02 * here.norm(), setting
        assert built(setting, "cuda", steps=3)(inputs).isfinite().all()
