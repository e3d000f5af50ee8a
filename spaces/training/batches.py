"""Training batches without end, on the device, and the part of each that a device gets."""

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
    """What one device computes of a step."""

    inputs: Inputs
    targets: Targets
    share: float = 1.0
    """Its samples as a share of the whole batch's, 0..1."""


def endless(task: Task, batch_size: int, device: torch.device) -> Generator[Batch, None, None]:
    """Yield training batches, one pass after another, in float32 on `device`.

    The rest at the end of a pass is left out if it is under half a batch: its gradient and the
    batch normalisation's statistics are too noisy.
    """
    for inputs, targets in _passes(task, batch_size):
        yield _placed(inputs, targets, device)


def parts(
    task: Task, batch_size: int, device: torch.device, rank: int, count: int
) -> Generator[Batch, None, None]:
    """Yield the part of each batch of `endless` that device `rank` of `count` computes.

    Every process reads whole batches and keeps its rows, so that they are those of one device
    whatever the task draws while it reads; what is drawn elsewhere does not change them. Raises
    Infeasible when a batch cannot be divided.
    """
    stream = _passes(task, batch_size)
    state = _drawn()
    try:
        while True:
            outside = _drawn()
            _draw_from(state)
            inputs, targets = next(stream)
            state = _drawn()
            _draw_from(outside)
            yield _part(inputs, targets, device, rank, count)
    finally:
        _draw_from(state)  # as after training on one device


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
    """Return a first training batch; what it draws at random leaves no trace."""
    with seeded(0):
        return next(endless(task, samples, device))


def sample(task: Task, batch_size: int, count: int, device: torch.device) -> list[Batch]:
    """Return some training batches, the same at every call; what is drawn leaves no trace."""
    with seeded(1):
        stream = endless(task, batch_size, device)
        return [next(stream) for _ in range(count)]


def held_out(task: Task, batch_size: int, count: int, device: torch.device) -> list[Batch]:
    """Return up to `count` validation batches from all over the split, the same at every call.

    A short batch at its end is left out; there may be none at all. Of a long split no more than
    twice as many are held at a time.
    """
    kept: list[tuple[Inputs, Targets]] = []
    apart = 1
    with seeded(1):
        for place, batch in enumerate(task.batches("validation", batch_size)):
            if place % apart == 0 and length(batch[0]) == batch_size:
                kept.append(batch)
            if len(kept) > 2 * count:
                kept, apart = kept[::2], 2 * apart
    places = np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)
    return [_placed(inputs, targets, device) for inputs, targets in (kept[p] for p in places)]


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
    """Return a batch on `device`; on the host targets stay whatever the task made them."""
    if not on_host(device):
        targets = transform(targets, lambda t: t.to(device))
    return Batch(
        inputs=transform(inputs, lambda t: _float(t, device)), targets=targets, share=share
    )


def _float(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)


def _rows(tree: Any, start: int, end: int, total: int) -> Any:
    """Return samples of a batch; a tensor that is the same for all of them is passed on whole."""
    try:
        flatten(tree)
    except TypeError as error:
        raise Infeasible(
            f"several devices cannot share a batch: {error}; yield tensors, or set "
            "placement.devices count = [1]"
        ) from error
    return transform(tree, lambda t: t[start:end] if t.dim() and len(t) == total else t)


_State = tuple[Any, Any, Tensor]


def _drawn() -> _State:
    """Return the states of Python's, NumPy's and torch's global generators."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _draw_from(state: _State) -> None:
    python, numeric, tensor = state
    random.setstate(python)
    np.random.set_state(numeric)
    torch.set_rng_state(tensor)
