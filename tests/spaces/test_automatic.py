"""What recovery training chooses by itself."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from spaces.devices.cpu import Cpu
from spaces.training.defaults import (
    RATE,
    RATE_BATCH,
    RATE_NORMALISED,
    RATE_TRANSFORMER,
    automatic_batch,
    automatic_rate,
    automatic_type,
)


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        (nn.Linear(2, 2), RATE),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), RATE_NORMALISED / 8),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)), RATE),
        (nn.TransformerEncoderLayer(8, 2, 8), RATE_TRANSFORMER),
        (nn.Sequential(nn.Embedding(4, 2), nn.RMSNorm(2)), RATE_TRANSFORMER),
    ],
)
def test_the_rate_fits_the_kind_of_model_and_the_batch(model: nn.Module, rate: float) -> None:
    assert automatic_rate(model, RATE_BATCH // 8) == rate


def test_batch_is_the_largest_power_of_two_within_the_operations_of_a_step() -> None:
    # 2 x 16 x 16 x 9 x 300 x 300 = 4.15e8 operations forward, so 1e11 pays for 80 samples with
    # the backward pass, for 60 with a teacher.
    model, inputs = nn.Conv2d(16, 16, 3, padding=1), torch.zeros(2, 16, 300, 300)
    assert automatic_batch(model, None, inputs) == 64
    assert automatic_batch(model, model, inputs) == 32


def test_batch_is_bounded() -> None:
    assert automatic_batch(nn.Linear(2, 2), None, torch.zeros(2, 2)) == 256
    with FakeTensorMode():  # on the CPU, without memory
        heavy = nn.Linear(2**15, 2**15)
        assert automatic_batch(heavy, None, torch.zeros(2, 1024, 2**15)) == 8
    assert automatic_batch(nn.Sequential(nn.BatchNorm1d(2)), None, torch.zeros(2, 2)) == 256


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout())).train()
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    automatic_batch(model, None, torch.randn(2, 2))
    assert [m.training for m in model.modules()] == [True, True, True, False, False]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Collecting(nn.Module):
    """Puts what a layer computes into a tensor of the type of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        found[torch.arange(len(x))] = self.layer(x)
        return found


def test_types_are_mixed_where_the_processor_gains_and_the_models_code_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = torch.zeros(2, 4)
    monkeypatch.setattr(Cpu, "native_bfloat16", lambda self: True)
    assert automatic_type(nn.Linear(4, 4), inputs) == "bfloat16"
    assert automatic_type(Collecting(), inputs) == "float32"
    monkeypatch.setattr(Cpu, "native_bfloat16", lambda self: False)
    assert automatic_type(nn.Linear(4, 4), inputs) == "float32"
