"""Find the linear layers of a model whose floating-point weight no other code reads."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from objectives.exporting import torch_modules

_ATTRIBUTES = ("weight", "bias", "in_features", "out_features")
"""Attributes that a replacement does not have."""
_MAX_NAMES = 3
"""Layers that a remark names at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linears:
    """The plain linear layers of a model, by name; instances of subclasses are left out."""

    replaceable: dict[str, nn.Linear]
    """Layers that the model only calls."""
    read: dict[str, nn.Linear]
    """Layers whose parameters the model reads itself, which a replacement would not have."""

    def notes(self) -> dict[str, Any]:
        """Return a manifest's remark on the layers in `read`; empty if there are none."""
        if not self.read:
            return {}
        names = [*list(self.read)[:_MAX_NAMES], *["..."] * (len(self.read) > _MAX_NAMES)]
        total = len(self.read) + len(self.replaceable)
        return {
            "remark": f"{len(self.read)} of {total} linear layers stay in floating point, "
            f"the model's code reads their parameters itself: {', '.join(names)}"
        }


def linears(model: nn.Module, inputs: Any) -> Linears:
    """Run `model` once on the device of its inputs and return its plain linear layers.

    Raises Infeasible if the model cannot run.
    """
    plain = {n: layer for n, layer in model.named_modules() if type(layer) is nn.Linear}
    with _watched(list(plain.values())) as read:
        torch_modules.rehearse(model, inputs)
    return Linears(
        replaceable={name: layer for name, layer in plain.items() if id(layer) not in read},
        read={name: layer for name, layer in plain.items() if id(layer) in read},
    )


def replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Replace the named layer in place; return the model, or `layer` if it is the whole model."""
    if not name:
        return layer
    model.set_submodule(name, layer)
    return model


class _Watched(nn.Linear):
    """A linear layer that records reads of its attributes from outside its forward."""

    read_ids: set[int]
    """Ids of the layers that were read; shared by all layers of a model."""
    in_forward = False

    def __getattribute__(self, name: str) -> Any:
        if name in _ATTRIBUTES and not object.__getattribute__(self, "in_forward"):
            self.read_ids.add(id(self))
        return super().__getattribute__(name)

    def forward(self, inputs: Tensor) -> Tensor:
        self.in_forward = True
        try:
            return super().forward(inputs)
        finally:
            self.in_forward = False


@contextlib.contextmanager
def _watched(layers: list[nn.Linear]) -> Iterator[set[int]]:
    """Yield the ids of the layers whose attributes are read from outside, filled in the block."""

    read: set[int] = set()
    watched = type("_WatchedLinear", (_Watched,), {"read_ids": read})
    for layer in layers:
        layer.__class__ = watched
    try:
        yield read
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
            vars(layer).pop("in_forward", None)
