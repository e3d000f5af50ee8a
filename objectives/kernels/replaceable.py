"""Which linear layers can be replaced by others that hold no weight in floating point."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from objectives.exporting import torch_modules

_HELD = ("weight", "bias", "in_features", "out_features")
"""What a replacement does not have."""
_NAMED = 3
"""Layers that a remark names; of more it gives the number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linears:
    """The plain linear layers of a model, by name; what derives from them is not plain."""

    called: dict[str, nn.Linear]
    """Those that the model only calls."""
    read: dict[str, nn.Linear]
    """Those whose parameters the model reads itself, which a replacement would not have."""

    def remark(self) -> dict[str, Any]:
        """Return what a manifest says of the layers that are not replaced; nothing if none are."""
        if not self.read:
            return {}
        names = [*list(self.read)[:_NAMED], *["..."] * (len(self.read) > _NAMED)]
        all_of_them = len(self.read) + len(self.called)
        return {
            "remark": f"{len(self.read)} of {all_of_them} linear layers stay in floating point, "
            f"the model's code reads their parameters itself: {', '.join(names)}"
        }


def linears(model: nn.Module, inputs: Any) -> Linears:
    """Run `model` once, where its inputs are; return its plain linear layers.

    Raises Infeasible if the model cannot run.
    """
    plain = {n: layer for n, layer in model.named_modules() if type(layer) is nn.Linear}
    with _watched(list(plain.values())) as read:
        torch_modules.rehearse(model, inputs)
    return Linears(
        called={name: layer for name, layer in plain.items() if id(layer) not in read},
        read={name: layer for name, layer in plain.items() if id(layer) in read},
    )


def replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Return `model`, edited in place, with another layer; the layer if it is all of the model."""
    if not name:
        return layer
    model.set_submodule(name, layer)
    return model


class _Watched(nn.Linear):
    """A linear layer that notes when others than itself read what it holds."""

    noted: set[int]
    own = False

    def __getattribute__(self, name: str) -> Any:
        if name in _HELD and not object.__getattribute__(self, "own"):
            self.noted.add(id(self))
        return super().__getattribute__(name)

    def forward(self, inputs: Tensor) -> Tensor:
        self.own = True
        try:
            return super().forward(inputs)
        finally:
            self.own = False


@contextlib.contextmanager
def _watched(layers: list[nn.Linear]) -> Iterator[set[int]]:
    """Yield the ids of the layers from which others than themselves have read."""

    read: set[int] = set()
    noting = type("_Noting", (_Watched,), {"noted": read})
    for layer in layers:
        layer.__class__ = noting
    try:
        yield read
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
            vars(layer).pop("own", None)
