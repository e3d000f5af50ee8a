"""A user's own task: a Python file with functions, nothing to inherit."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces import Inputs, Split, Targets, Task, load_file
from spaces.modules import flatten, transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class Python(Task):
    """The functions model, batches and optionally loss and score of the file `file`.

    Model and batches are cast to float32 here, whatever type they come in, so that every runtime
    is compared with, starts from and is given the same numbers.
    """

    file: Path
    """In an experiment its path is relative to the experiment."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", Path(self.file))
        if not self.file.is_file():
            raise ValueError(
                f"no file at {self.file}; write it with the functions model() and "
                "batches(split, batch_size)"
            )

    def model(self) -> nn.Module:
        """Return what the user's model() returns, in evaluation mode and in float32."""
        return self.given().float()

    def given(self) -> nn.Module:
        """Return what the user's model() returns, in evaluation mode."""
        network = self._function("model")()
        if not isinstance(network, nn.Module):
            raise TypeError(f"model() must return a torch.nn.Module, got {_kind(network)}")
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        """Yield what the user's batches(split, batch_size) yields, each checked to be a pair."""
        for item in self._function("batches")(split, batch_size):
            if not (isinstance(item, tuple | list) and len(item) == 2):
                raise TypeError(f"batches() must yield (inputs, targets), got {_kind(item)}")
            yield _single(item[0]), _single(item[1])

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """Return the user's loss, cross-entropy when they wrote none."""
        own = self._optional("loss")
        return own(outputs, targets) if own else super().loss(outputs, targets)

    def score(self, outputs: Any, targets: Targets) -> float:
        """Return the user's score, top-1 accuracy when they wrote none."""
        own = self._optional("score")
        return float(own(outputs, targets)) if own else super().score(outputs, targets)

    def describe(self) -> dict[str, str]:
        """Return the file's path and the first lines of its functions' docstrings."""
        notes = {
            name: (inspect.getdoc(own) or "").partition("\n")[0]
            for name in ("model", "batches", "loss", "score")
            if (own := self._optional(name))
        }
        return {"name": "python", "file": str(self.file.resolve()), **notes}

    def _optional(self, name: str) -> Callable[..., Any] | None:
        return getattr(load_file(self.file), name, None)

    def _function(self, name: str) -> Callable[..., Any]:
        function = self._optional(name)
        if function is None:
            raise AttributeError(f"{self.file} has no function {name}(); every task needs one")
        return function


def _single(tree: Any) -> Any:
    """Return `tree` with its floating-point tensors in float32.

    What has no others is passed on as it is, and so are targets that only the user understands.
    """
    try:
        tensors, _ = flatten(tree)
    except TypeError:
        return tree
    if all(t.dtype is torch.float32 for t in tensors if t.is_floating_point()):
        return tree
    return transform(tree, lambda t: t.float() if t.is_floating_point() else t)


def _kind(value: object) -> str:
    return type(value).__name__
