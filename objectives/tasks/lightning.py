"""Modules of Lightning with their data modules, from a user's Python file."""

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from objectives.checkpoints import load_checkpoint
from objectives.exporting import quiet
from objectives.supervised import kind_of_targets, loss_of, score_of
from spaces import Inputs, Split, Targets, Task, load_file, said

LOADERS = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}
"""Methods of a data module by split."""
LOSSES = ("criterion", "loss_fn", "loss_function")
"""Attributes in which a Lightning module usually keeps its loss."""
FLAWS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, OSError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lightning(Task):
    """A LightningModule and the LightningDataModule beside it, each made without arguments.

    The training loss is the module's own if it keeps one as `criterion` or `loss_fn`, and otherwise
    follows from the targets, as the score does: see `objectives.supervised`. Raises ValueError if
    the file does not exist.
    """

    reference = "file"
    packages = ("lightning",)

    file: Path
    """Python file with both classes; FILE.py:CLASS also names the LightningModule."""
    network: str = ""
    """Name of the LightningModule; empty if the file has one."""
    data: str = ""
    """Name of the LightningDataModule; empty if the file has one."""
    checkpoint: Path | None = None
    """Checkpoint of Lightning, or a state dict; without it the weights are those of the class."""

    def __post_init__(self) -> None:
        place, _, name = str(self.file).rpartition(":")
        if place.endswith(".py"):
            object.__setattr__(self, "network", self.network or name)
        object.__setattr__(self, "file", Path(place if place.endswith(".py") else self.file))
        if not self.file.is_file():
            raise ValueError(f"there is no file {self.file} with a LightningModule")

    def model(self) -> nn.Module:
        """Return the module in evaluation mode; raises ValueError if it cannot be made."""
        kind = _class(self.file, lightning.LightningModule, self.network, "network")
        if self.checkpoint is not None and self.checkpoint.suffix == ".ckpt":
            make: Any = functools.partial(_restored, kind, self.checkpoint)
        else:
            make = kind
        network: nn.Module = _made(make, kind)
        if self.checkpoint is not None and self.checkpoint.suffix != ".ckpt":
            load_checkpoint(network, self.checkpoint, kind.__name__)
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Inputs, Targets]]:
        """Yield the batches of the data module's loader, with `batch_size` samples each.

        Raises ValueError if there is no loader, or a batch is no pair of inputs and targets.
        """
        data = _data_module(self.file, self.data)
        loader = _made(getattr(data, LOADERS[split]), type(data))
        if not isinstance(loader, DataLoader):
            raise ValueError(
                f"{LOADERS[split]}() of {type(data).__name__} must return one DataLoader, got a "
                f"{type(loader).__name__}: every split needs one"
            )
        shuffled = split == "train" and not isinstance(loader.dataset, IterableDataset)
        for batch in DataLoader(
            loader.dataset, batch_size=batch_size, shuffle=shuffled, collate_fn=loader.collate_fn
        ):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise ValueError(
                    f"the loaders of {type(data).__name__} must yield (inputs, targets), got a "
                    f"{type(batch).__name__}: write a task.py"
                )
            yield batch[0], batch[1]

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """Return the module's own loss, or that of the kind of its targets."""
        own = _own_loss(self)
        if own is not None:
            loss: Tensor = own(outputs, targets)
            return loss
        kind = kind_of_targets(outputs, targets)
        return super().loss(outputs, targets) if kind is None else loss_of(kind, outputs, targets)

    def score(self, outputs: Any, targets: Targets) -> float:
        """Return the score of the kind of the targets; raises Unsuited for other kinds."""
        kind = kind_of_targets(outputs, targets)
        return super().score(outputs, targets) if kind is None else score_of(kind, outputs, targets)

    def notices(self) -> tuple[str, ...]:
        """Return whose weights are used if there is no checkpoint."""
        if self.checkpoint is not None:
            return ()
        return (
            "no checkpoint was given: the weights are those with which the LightningModule is made",
        )

    def describe(self) -> dict[str, str]:
        """Return file, classes and checkpoint."""
        return {
            "name": f"lightning:{self.file.name}",
            "file": str(self.file.resolve()),
            "checkpoint": str(self.checkpoint or ""),
            "batches": f"samples of the data module's loaders {self.data}".strip(),
        }


def _class(file: Path, base: type[Any], name: str, field: str) -> type[Any]:
    """Return the class of a file by name, or its only subclass of `base`."""
    classes = _subclasses(load_file(file), base)
    if name:
        classes = {n: kind for n, kind in classes.items() if n == name}
    if len(classes) != 1:
        listed = ", ".join(_subclasses(load_file(file), base)) or "none"
        raise ValueError(
            f"{file} must have one {base.__name__}{' named ' + name if name else ''}, it has "
            f'{listed}: name one by {field} = "CLASS" in the table [task.lightning]'
        )
    return next(iter(classes.values()))


def _subclasses(module: ModuleType, base: type[Any]) -> dict[str, type[Any]]:
    """Return the subclasses of `base` that a file defines itself, or imports if it defines none."""
    found = {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, base)
    }
    own = {name: kind for name, kind in found.items() if kind.__module__ == module.__name__}
    return own or {n: k for n, k in found.items() if k.__module__.partition(".")[0] != "lightning"}


def _made(make: Any, kind: type[Any]) -> Any:
    """Return what user code makes; raises ValueError if it fails."""
    try:
        with quiet():
            return make()
    except FLAWS as error:
        raise ValueError(f"{kind.__name__} cannot be used: {said(error)}") from error


def _restored(kind: type[Any], checkpoint: Path) -> Any:
    return kind.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)


@functools.cache  # preparing data may take minutes
def _data_module(file: Path, name: str) -> Any:
    kind = _class(file, lightning.LightningDataModule, name, "data")
    data = _made(kind, kind)
    _made(data.prepare_data, kind)
    for stage in ("fit", "test"):
        _made(functools.partial(data.setup, stage), kind)
    return data


@functools.cache
def _own_loss(task: Lightning) -> Any:
    """Return the loss that a Lightning module keeps as an attribute, None if it keeps none."""
    network = task.model()
    found = (getattr(network, name, None) for name in LOSSES)
    return next((loss for loss in found if callable(loss)), None)
