"""The settings of recovery training."""

import dataclasses

import pytest

from spaces import Encoding, Plan, Recovery, Stage
from spaces.techniques.distill.logits import Logits


def test_neutral_asks_for_nothing() -> None:
    assert Logits().plan(Plan()) == Plan()
    assert Logits(temperature=4.0, weight=0.5).plan(Plan()) == Plan()
    assert Logits.stage is Stage.TRAIN


def test_plan_keeps_what_others_asked() -> None:
    asked = Plan(encoding=Encoding(weight_bits=8), runtime="openvino")
    setting = Logits(steps=50, temperature=4.0, weight=0.7, learning_rate=0.1, batch_size=16)
    recovery = Recovery(
        steps=50, temperature=4.0, teacher_weight=0.7, learning_rate=0.1, batch_size=16
    )
    assert setting.plan(asked) == dataclasses.replace(asked, recovery=recovery)


@pytest.mark.parametrize(
    "setting",
    [
        Logits(temperature=8.0),
        Logits(temperature=8.0, steps=50, weight=0.0),
        Logits(temperature=8.0, steps=50, labels="hard"),
    ],
)
def test_a_temperature_that_divides_nothing_is_neutral(setting: Logits) -> None:
    assert setting.canonical() == dataclasses.replace(setting, temperature=1.0)


@pytest.mark.parametrize(
    "setting", [Logits(labels="hard"), Logits(labels="hard", steps=5, weight=0)]
)
def test_labels_of_no_teacher_are_neutral(setting: Logits) -> None:
    assert setting.canonical().labels == "soft"


def test_hard_labels_are_asked_for() -> None:
    assert Logits(steps=5, labels="hard").plan(Plan()).recovery.hard_labels


def test_a_temperature_that_matters_is_kept() -> None:
    setting = Logits(temperature=8.0, steps=50)
    assert setting.canonical() == setting


def test_recommendations_train_ever_longer_and_are_in_range() -> None:
    usual = Logits(weight=0.5).usual()
    steps = [s.steps for s in usual]
    assert steps == sorted(steps)
    for field in dataclasses.fields(Logits):
        if "dimension" in field.metadata:
            dimension = field.metadata["dimension"]
            assert dimension.holds(field.default)
            assert all(dimension.holds(getattr(s, field.name)) for s in usual)
    assert all(s.weight == 0.5 for s in usual)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"labels": "firm"}, "labels must be soft or hard, got 'firm'"),
        ({"steps": -1}, "steps must be 0 or more optimizer steps, got -1"),
        ({"weight": 1.5}, "weight must be between 0 and 1, got 1.5"),
        ({"learning_rate": -1.0}, "learning_rate must be 0 .* got -1.0"),
        ({"batch_size": -1}, "batch_size must be .* got -1"),
    ],
)
def test_refuses_settings_without_meaning(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Logits(**wrong)
