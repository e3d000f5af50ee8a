"""Splits of the task's data: read once, cached on disk for the measuring processes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from objectives.host import write_json
from objectives.streamed_tensors import tensor_stream
from spaces import Metric, Split, Task
from spaces.modules import (
    concatenate,
    flatten,
    length,
    names,
    plain,
    rows,
    seeded,
    transform,
    unflatten,
)

READ_BATCH = 256
"""Samples per batch when a split is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """A split of the task's data: trees of CPU tensors with the samples in dimension 0."""

    inputs: Any
    targets: Any
    score: Callable[[Any, Any], float]
    """The task's score: (outputs, targets) of all samples -> float."""
    metric: Callable[[], Metric | None] = lambda: None
    """Returns the task's metric, which is used in place of the score; None if it has none."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return length(self.inputs)

    def thinned(self, count: int) -> "Examples":
        """Return at most `count` samples at a constant stride, as splits may be sorted by class."""
        strided = slice(None, None, -(-len(self) // count))
        return dataclasses.replace(
            self, inputs=rows(self.inputs, strided), targets=rows(self.targets, strided)
        )


def read(task: Task, split: Split) -> Examples:
    """Read a whole split of the task into memory.

    Raises ValueError if the split is empty, if the inputs of its batches differ in shape beyond
    the batch, or if an input does not have the samples in dimension 0.
    """
    batches = list(_batches(task, split))
    return Examples(
        inputs=plain(concatenate([i for i, _ in batches])),
        targets=plain(concatenate([t for _, t in batches])),
        score=task.score,
        metric=task.metric,
    )


def _batches(task: Task, split: Split) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of a split on the CPU; raises ValueError as `read` does."""
    first: list[list[int]] | None = None
    for inputs, targets in task.batches(split, READ_BATCH):
        inputs, targets = transform(inputs, _detached), transform(targets, _detached)
        _require_samples(split, inputs)
        shapes = [list(t.shape[1:]) for t in flatten(inputs)[0]]
        first = first or shapes
        if shapes != first:
            raise ValueError(
                f'inputs of batches("{split}", ...) differ in shape beyond the batch: '
                f"{' and '.join(map(str, sorted([first, shapes])))}; "
                "artifacts have fixed shapes, so pad inputs to one length"
            )
        yield inputs, targets
    if first is None:
        raise ValueError(f'batches("{split}", {READ_BATCH}) yielded nothing')


def _require_samples(split: Split, inputs: Any) -> None:
    """Raise ValueError unless dimension 0 of every input tensor counts the batch's samples."""
    tensors, spec = flatten(inputs)
    count = length(inputs)
    for name, tensor in zip(names(spec), tensors, strict=True):
        if tensor.dim() == 0 or len(tensor) != count:
            raise ValueError(
                f'batches("{split}", ...) yields an input {name} of shape '
                f"{list(tensor.shape)} in a batch of {count} samples: dimension 0 of every input "
                "counts the samples, so repeat what all of them share, or keep it in the model"
            )


def cached(task: Task, split: Split, folder: Path) -> Examples:
    """Return a split that is cached in `folder`; the first call reads it from the task.

    It is written batch by batch, and what is returned stays on disk until it is used, so that a
    split may be larger than the memory. Raises ValueError as `read` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, spec_file = folder / f"{split}.safetensors", folder / f"{split}.json"
    if not spec_file.is_file():
        _store(_batches(task, split), file, spec_file)
    spec = json.loads(spec_file.read_text())
    tensors = load_file(file)
    parts = {
        part: plain(
            unflatten([tensors[f"{part}.{i}"] for i in range(spec[part][1])], spec[part][0])
        )
        for part in ("inputs", "targets")
    }
    return Examples(
        inputs=parts["inputs"], targets=parts["targets"], score=task.score, metric=task.metric
    )


def fingerprint(examples: Examples) -> str:
    """Return the sha256 of the dtypes, shapes and values of a split."""
    digest = hashlib.sha256()
    for tensor in (*flatten(examples.inputs)[0], *flatten(examples.targets)[0]):
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        # a view of the bytes: a copy of a large split would not fit into memory
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def calibration(
    task: Task, batch_size: int, samples: int, seed: int, folder: Path
) -> tuple[Any, ...]:
    """Return inputs of full training batches, the same at every call; cached in `folder`.

    The first call draws batches with `seed` until they hold `samples` samples. Raises ValueError if
    the training split has no full batch.
    """
    file = folder / f"calibration-{samples}.safetensors"
    spec_file = file.with_suffix(".json")
    if not spec_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with seeded(seed):
            batches = _full_batches(task, batch_size, samples)
            _store(((inputs, ()) for inputs in batches), file, spec_file)
    spec, count = json.loads(spec_file.read_text())["inputs"]
    tensors = load_file(file)
    columns = [torch.split(tensors[f"inputs.{i}"], batch_size) for i in range(count)]
    return tuple(plain(unflatten(leaves, spec)) for leaves in zip(*columns, strict=True))


def _full_batches(task: Task, batch_size: int, samples: int) -> Iterator[Any]:
    """Yield inputs of full batches until they hold `samples` samples or the split ends.

    Raises ValueError if there is no full batch.
    """
    seen = 0
    for inputs, _ in task.batches("train", batch_size):
        if length(inputs) == batch_size:
            seen += batch_size
            yield transform(inputs, _detached)
        if seen >= samples:
            return
    if not seen:
        raise ValueError(f'batches("train", {batch_size}) yields no batch of {batch_size} samples')


def _store(batches: Iterable[tuple[Any, Any]], file: Path, spec_file: Path) -> None:
    """Write batches of inputs and targets into one file, and their structure into another.

    Raises ValueError if batches differ in structure, types or shapes beyond the batch.
    """
    spec: dict[str, Any] = {}
    with tensor_stream(file.parent) as stream:
        for batch in batches:
            for part, tree in zip(("inputs", "targets"), batch, strict=True):
                leaves, structure = flatten(tree)
                if spec.setdefault(part, [structure, len(leaves)]) != [structure, len(leaves)]:
                    raise ValueError(f"batches differ in the structure of their {part}")
                for i, tensor in enumerate(leaves):
                    stream.append(f"{part}.{i}", tensor)
        stream.store(file)
    write_json(spec_file, spec)


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu()
