"""What a task that wrote no loss says when the default cannot take its outputs."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spaces import Inputs, Split, Targets, Task
from spaces.task import Unsuited


class Bare(Task):
    def model(self) -> nn.Module:
        return nn.Identity()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        yield torch.zeros(batch_size, 10), torch.zeros(batch_size)

    def describe(self) -> dict[str, str]:
        return {"name": "bare"}


def test_the_default_loss_says_what_the_targets_have_that_it_cannot_take() -> None:
    with pytest.raises(Unsuited, match="Target 10 is out of bounds") as caught:
        Bare().loss(torch.zeros(10, 10), torch.arange(1, 11))
    assert "outputs [10, 10] float32 and targets [10] int64" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lack_of_memory_is_not_the_targets_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(F, "cross_entropy", full)
    with pytest.raises(torch.OutOfMemoryError):
        Bare().loss(torch.zeros(2, 10), torch.zeros(2).long())
