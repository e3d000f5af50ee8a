"""Reading a split: what a task may yield, and one line on what it may not."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from objectives.examples import read
from spaces import Split, Task


class Beside(Task):
    """Yields rows, and beside them a tensor."""

    def __init__(self, beside: Tensor) -> None:
        self.beside = beside

    def model(self) -> nn.Module:
        return nn.Identity()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        del split, batch_size
        for _ in range(3):
            yield {"x": torch.randn(4, 8), "beside": self.beside}, torch.zeros(4)

    def describe(self) -> dict[str, str]:
        return {"name": "beside"}


def test_a_split_is_read_whole() -> None:
    found = read(Beside(torch.ones(4, 2)), "train")
    assert (len(found), found.inputs["beside"].shape) == (12, (12, 2))


@pytest.mark.parametrize("shape", [(), (3,), (8, 4)])
def test_an_input_that_does_not_count_samples_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"an input beside of shape .* in a batch of 4 samples"):
        read(Beside(torch.ones(shape)), "train")
