"""Layers whose rows are gates or inputs: which weights they have, and training them in few bits."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spaces import Encoding, Recovery, Split, Task
from spaces.constraint import Constraint
from spaces.quantization.encode import encoded
from spaces.quantization.layers import layers
from spaces.quantization.straight import Grid
from spaces.quantization.tied import Tied
from spaces.training.recovery import recover


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 32)
        self.cells = nn.LSTM(32, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        words = self.table((x.abs() * 19).clamp(max=19).long())
        return cast(Tensor, self.head(self.cells(words)[0].mean(1)))


class Turned(nn.Module):
    """A transposed convolution and linear layers that hold (inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.wide = nn.ConvTranspose1d(1, 32, 2, stride=2), nn.ConvTranspose1d(32, 32, 2)
        self.mid, self.head = Conv1D(64, 32), Conv1D(4, 64)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.relu(self.wide(torch.relu(self.up(x[:, None])))).mean(2)
        return cast(Tensor, self.head(torch.relu(self.mid(pooled))))


class Drawn(Task):
    def __init__(self, kind: Callable[[], nn.Module]) -> None:
        self.kind = kind

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return self.kind().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        inputs = torch.rand(64, 9, generator=torch.Generator().manual_seed(len(split)))
        for part in inputs.split(batch_size):
            yield part, (part.sum(1) > 4.5).long()

    def describe(self) -> dict[str, str]:
        return {"name": "drawn"}


def test_every_weight_of_recurrent_and_transposed_layers_has_rows() -> None:
    assert list(layers(Cells())) == [
        "table.weight",
        "cells.weight_ih_l0",
        "cells.weight_hh_l0",
        "cells.weight_ih_l0_reverse",
        "cells.weight_hh_l0_reverse",
        "head.weight",
    ]
    assert list(layers(Turned())) == ["up.weight", "wide.weight", "mid.weight", "head.weight"]
    assert "weight_hr_l0" in layers(nn.LSTM(8, 16, proj_size=4))


@pytest.mark.parametrize("kind", [Cells, Turned])
@pytest.mark.parametrize(
    ("constraint", "bits"),
    [
        (Grid(weight_bits=2), {"weight_bits": 2}),
        (Grid(mean_bits=4), {"mean_bits": 4}),
        (Tied(bits=3), {"cluster_bits": 3}),
    ],
)
def test_training_moves_and_keeps_their_weights_on_the_grid(
    kind: Callable[[], nn.Module], constraint: Constraint, bits: dict[str, Any]
) -> None:
    task = Drawn(kind)
    model, before = task.model(), encoded(task.model(), task, Encoding(**bits))
    losses: list[float] = []
    recovery = Recovery(
        steps=6, batch_size=32, teacher_weight=0.5, learning_rate=1e-2, constraints=(constraint,)
    )
    recover(
        model, task.model(), task, recovery, seed=0, progress=lambda *step: losses.append(step[2])
    )
    after = encoded(model, task, Encoding(**bits))
    inputs = next(iter(task.batches("test", 64)))[0]
    with torch.no_grad():
        torch.testing.assert_close(after.model(inputs), model(inputs), rtol=0, atol=1e-5)
        moved = (after.model(inputs) - before.model(inputs)).abs().max()
    assert float(moved) > 1e-4
    own = dict(model.named_parameters())
    changed = [
        n for n in after.codes if not torch.equal(own[n], dict(before.model.named_parameters())[n])
    ]
    assert set(changed) == set(after.codes)


@pytest.mark.parametrize(("granularity", "groups"), [("automatic", 1), ("group", 2)])
def test_a_sign_has_one_scale_for_each_output_unless_groups_are_asked_for(
    granularity: str, groups: int
) -> None:
    model = nn.Sequential(
        nn.Linear(128, 64), nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 2)
    )
    codes = encoded(model, None, Encoding(weight_bits=1, granularity=granularity)).codes["2.weight"]
    assert codes.codes.shape == (64, groups, 128 // groups)
