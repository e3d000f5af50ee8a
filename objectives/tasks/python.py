"""Task from a user's Python file of plain functions."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces import Inputs, Metric, Split, Targets, Task, load_file
from spaces.modules import flatten, transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class Python(Task):
    """The functions model and batches, and optionally loss and score or metric, of a Python file.

    Models and batches of any floating-point type are cast to float32, so that every runtime starts
    from the same weights, gets the same inputs and is compared with the same outputs. Raises
    ValueError if the file does not exist.
    """

    file: Path
    """Path of the file; in an experiment, relative to the experiment's file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", Path(self.file))
        if not self.file.is_file():
            raise ValueError(
                f"no file at {self.file}; write it with the functions model() and "
                "batches(split, batch_size)"
            )

    def model(self) -> nn.Module:
        """Return the user's model in evaluation mode and in float32."""
        return self.given().float()

    def given(self) -> nn.Module:
        """Return the user's model in evaluation mode, in its own floating-point type.

        Raises TypeError if model() does not return a module.
        """
        network = self._function("model")()
        if not isinstance(network, nn.Module):
            raise TypeError(f"model() must return a torch.nn.Module, got {_type_name(network)}")
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        """Yield the user's batches in float32.

        Raises TypeError if batches() yields anything but pairs.
        """
        for item in self._function("batches")(split, batch_size):
            if not (isinstance(item, tuple | list) and len(item) == 2):
                raise TypeError(f"batches() must yield (inputs, targets), got {_type_name(item)}")
            yield _as_float32(item[0]), _as_float32(item[1])

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """Return the user's loss, or cross-entropy if the file has none."""
        function = self._optional("loss")
        return function(outputs, targets) if function else super().loss(outputs, targets)

    def score(self, outputs: Any, targets: Targets) -> float:
        """Return the user's score, or top-1 accuracy if the file has none."""
        function = self._optional("score")
        return float(function(outputs, targets)) if function else super().score(outputs, targets)

    def metric(self) -> Metric | None:
        """Return the user's metric, or None if the file has none.

        Raises ValueError if the file has a score too.
        """
        function = self._optional("metric")
        if function and self._optional("score"):
            raise ValueError(f"{self.file} has both score() and metric(): keep one of them")
        metric: Metric | None = function() if function else None
        return metric

    def describe(self) -> dict[str, str]:
        """Return the file's path and the first lines of its functions' docstrings."""
        notes = {
            name: (inspect.getdoc(function) or "").partition("\n")[0]
            for name in ("model", "batches", "loss", "score", "metric")
            if (function := self._optional(name))
        }
        return {"name": "python", "file": str(self.file.resolve()), **notes}

    def _optional(self, name: str) -> Callable[..., Any] | None:
        return getattr(load_file(self.file), name, None)

    def _function(self, name: str) -> Callable[..., Any]:
        function = self._optional(name)
        if function is None:
            raise AttributeError(f"{self.file} has no function {name}(); every task needs one")
        return function


def _as_float32(tree: Any) -> Any:
    """Return `tree` with its floating-point tensors in float32.

    A tree without other floating-point types is returned as it is, and so are targets of classes
    that only the user's code understands.
    """
    try:
        tensors, _ = flatten(tree)
    except TypeError:
        return tree
    if all(t.dtype is torch.float32 for t in tensors if t.is_floating_point()):
        return tree
    return transform(tree, lambda t: t.float() if t.is_floating_point() else t)


def _type_name(value: object) -> str:
    return type(value).__name__
