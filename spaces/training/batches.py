"""Batches of recovery training: an endless stream, its parts for several devices, and samples."""

import dataclasses
import random
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spaces.devices import on_host
from spaces.modules import flatten, length, seeded, transform
from spaces.task import Inputs, Targets, Task
from spaces.technique import Infeasible


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """The part of a step's batch that one device computes."""

    inputs: Inputs
    targets: Targets
    share: float = 1.0
    """Its samples as a share of the whole batch, 0..1."""


def endless(task: Task, batch_size: int, device: torch.device) -> Generator[Batch, None, None]:
    """Yield training batches, one pass after another, in float32 on `device`.

    The last batch of a pass is left out if it is under half a batch, since its gradient and its
    batch normalisation statistics are too noisy. Raises ValueError if the split is empty.
    """
    for inputs, targets in _passes(task, batch_size):
        yield _placed(inputs, targets, device)


def parts(
    task: Task, batch_size: int, device: torch.device, rank: int, count: int
) -> Generator[Batch, None, None]:
    """Yield the part of each batch of `endless` that device `rank` of `count` computes.

    Every process reads whole batches and takes its rows, so that the batches equal those of one
    device whatever random numbers the task draws; numbers drawn elsewhere do not change them.
    Raises Infeasible if a batch cannot be divided.
    """
    stream = _passes(task, batch_size)
    state = _random_state()
    try:
        while True:
            outside = _random_state()
            _restore(state)
            inputs, targets = next(stream)
            state = _random_state()
            _restore(outside)
            yield _part(inputs, targets, device, rank, count)
    finally:
        _restore(state)  # as after training on one device


def _part(inputs: Inputs, targets: Targets, device: torch.device, rank: int, count: int) -> Batch:
    """Return the rows of a batch that device `rank` of `count` computes."""
    total = length(inputs)
    if total < count:
        raise Infeasible(
            f"a batch of {total} samples cannot be shared by {count} devices; set "
            f"distill.logits batch_size to {count} or more"
        )
    start, end = total * rank // count, total * (rank + 1) // count
    return _placed(
        _rows(inputs, start, end, total),
        _rows(targets, start, end, total),
        device,
        (end - start) / total,
    )


def example(task: Task, samples: int, device: torch.device) -> Batch:
    """Return a first training batch; the random generators are restored afterwards."""
    with seeded(0):
        return next(endless(task, samples, device))


def sample(task: Task, batch_size: int, count: int, device: torch.device) -> list[Batch]:
    """Return training batches, the same at every call; the random generators are restored."""
    with seeded(1):
        stream = endless(task, batch_size, device)
        return [next(stream) for _ in range(count)]


def held_out(task: Task, batch_size: int, count: int, device: torch.device) -> list[Batch]:
    """Return up to `count` validation batches spread over the split, the same at every call.

    A short batch at the end of the split is left out; there may be no batches at all. Of a long
    split, about twice as many are in memory at a time.
    """
    selected: list[tuple[Inputs, Targets]] = []
    spacing = 1
    with seeded(1):
        for place, batch in enumerate(task.batches("validation", batch_size)):
            if place % spacing == 0 and length(batch[0]) == batch_size:
                selected.append(batch)
            if len(selected) > 2 * count:
                selected, spacing = selected[::2], 2 * spacing
    places = np.linspace(0, len(selected) - 1, min(count, len(selected))).round().astype(int)
    return [_placed(inputs, targets, device) for inputs, targets in (selected[p] for p in places)]


def _passes(task: Task, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
    while True:
        full = 0
        for inputs, targets in task.batches("train", batch_size):
            full = max(full, length(inputs))
            if 2 * length(inputs) >= full:
                yield inputs, targets
        if full == 0:
            raise ValueError('the task\'s batches("train", ...) yields nothing to train on')


def _placed(inputs: Inputs, targets: Targets, device: torch.device, share: float = 1.0) -> Batch:
    """Return a batch on `device`; on the host, targets stay as the task yields them."""
    if not on_host(device):
        targets = transform(targets, lambda t: t.to(device))
    return Batch(
        inputs=transform(inputs, lambda t: _float(t, device)), targets=targets, share=share
    )


def _float(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)


def _rows(tree: Any, start: int, end: int, total: int) -> Any:
    """Return samples of a batch; a tensor that all samples share is passed on whole."""
    try:
        flatten(tree)
    except TypeError as error:
        raise Infeasible(
            f"several devices cannot share a batch: {error}; yield tensors, or set "
            "placement.devices count = [1]"
        ) from error
    return transform(tree, lambda t: t[start:end] if t.dim() and len(t) == total else t)


_State = tuple[Any, Any, Tensor]


def _random_state() -> _State:
    """Return the states of Python's, NumPy's and torch's global generators."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _restore(state: _State) -> None:
    python, numeric, tensor = state
    random.setstate(python)
    np.random.set_state(numeric)
    torch.set_rng_state(tensor)
