"""Reading a split: what a task may yield, and one line on what it may not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from objectives.examples import cached, fingerprint, read
from spaces import Split, Task
from spaces.modules import flatten


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


class Kinds(Task):
    """Yields inputs and targets of several types in batches of the size that is asked for."""

    last: torch.dtype = torch.float32

    def model(self) -> nn.Module:
        return nn.Identity()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        del split
        rows = torch.arange(300)
        for index in rows.split(batch_size):
            floats = index[:, None].to(torch.float32 if index[0] == 0 else self.last) / 3
            ids = index[:, None, None] * torch.ones(1, 2, 3, dtype=torch.int64)
            yield {"x": floats, "ids": ids}, (index % 2 == 0, index.to(torch.bfloat16))

    def describe(self) -> dict[str, str]:
        return {"name": "kinds"}


def test_a_split_is_stored_batch_by_batch_as_it_is_read(tmp_path: Path) -> None:
    task = Kinds()
    whole = read(task, "test")
    for _ in range(2):
        stored = cached(task, "test", tmp_path)
        pairs = zip(
            flatten((stored.inputs, stored.targets))[0],
            flatten((whole.inputs, whole.targets))[0],
            strict=True,
        )
        assert all(a.dtype is b.dtype and torch.equal(a, b) for a, b in pairs)
    assert fingerprint(stored) == fingerprint(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.json", "test.safetensors"]


def test_batches_of_another_type_are_named_and_leave_nothing(tmp_path: Path) -> None:
    task = Kinds()
    task.last = torch.float64
    with pytest.raises(ValueError, match=r"rows of \[1\] float64 in one batch"):
        cached(task, "test", tmp_path)
    assert list(tmp_path.iterdir()) == []
