"""Layers without their values: what the time of a layer can depend on, besides its bits."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spaces import Alone
from spaces.modules import Convolution, call, evaluating
from spaces.quantization import layers

_TYPES: dict[str, type[nn.Module]] = {
    "Linear": nn.Linear,
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv3d": nn.Conv3d,
}
WEIGHT = "0.weight"
"""Name of the weight in a model of one layer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(Alone):
    """A layer as it is used: its type, its arguments and the shape of its input."""

    type: str
    """Linear, Conv1d, Conv2d or Conv3d."""
    arguments: tuple[tuple[str, Any], ...]
    """What it is made with."""
    shape: tuple[int, ...]
    """Of its input at the target's batch size, the batch as dimension 0."""

    def model(self) -> nn.Module:
        """Return a model of one layer of this kind, the same values every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = _TYPES[self.type](**dict(self.arguments))
        return nn.Sequential(layer).eval()

    def inputs(self) -> Tensor:
        """Return an input, the same values every time."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    @property
    def work(self) -> float:
        """Multiplications, up to what strides leave out: a rank among kinds."""
        own = dict(self.arguments)
        if self.type == "Linear":
            return float(math.prod(self.shape) * own["out_features"])
        kernel = math.prod(own["kernel_size"]) / own["groups"]
        return float(math.prod(self.shape) * own["out_channels"] * kernel)

    def __str__(self) -> str:
        """Return the kind in a few words, for the record."""
        own = dict(self.arguments)
        if self.type == "Linear":
            return f"Linear {own['in_features']} to {own['out_features']} of {list(self.shape)}"
        kernel = "x".join(map(str, own["kernel_size"]))
        rest = f", groups {own['groups']}" if own["groups"] > 1 else ""
        size = f"{own['in_channels']} to {own['out_channels']}, {kernel}{rest}"
        return f"{self.type} {size} of {list(self.shape)}"


def kinds(model: nn.Module, inputs: Any) -> dict[str, list[Kind]]:
    """Return, for each weight of `layers(model)`, the kinds of the layers that use it.

    Found in one pass over a batch: once for every call, so that a weight that several layers
    share is counted for each. Tables are left out: of any width, they are looked up. Attention
    counts as linear layers of its projections' shapes.
    """
    names = {id(layer.weight): name for name, layer in layers(model).items()}
    found: dict[str, list[Kind]] = {name: [] for name in names.values()}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        for weight, kind in _used(module, given[0]) if given else ():
            if id(weight) in names:
                found[names[id(weight)]].append(kind)

    hooks = [m.register_forward_pre_hook(look, with_kwargs=True) for m in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _used(module: nn.Module, given: Tensor) -> Iterator[tuple[Tensor, Kind]]:
    """Yield the weights that a module multiplies `given` by, with their kinds."""
    if isinstance(module, nn.MultiheadAttention):
        if given.dim() == 3:
            shape = given.shape if module.batch_first else given.transpose(0, 1).shape
            for weight in (module.in_proj_weight, module.out_proj.weight):
                if weight is not None:  # the first, where keys or values have their own width
                    yield weight, _linear(weight, module.in_proj_bias is not None, tuple(shape))
    elif isinstance(module, nn.Linear):
        yield module.weight, _linear(module.weight, module.bias is not None, tuple(given.shape))
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and given.dim() == (
        module.weight.dim()  # a sample without a batch has one less
    ):
        yield module.weight, _convolution(module, tuple(given.shape))


def _linear(weight: Tensor, bias: bool, shape: tuple[int, ...]) -> Kind:
    outputs, inputs = weight.shape
    options = {"in_features": inputs, "out_features": outputs, "bias": bias}
    return Kind(type="Linear", arguments=tuple(options.items()), shape=(*shape[:-1], inputs))


def _convolution(module: Convolution, shape: tuple[int, ...]) -> Kind:
    outputs, inputs, *kernel = module.weight.shape  # pruning leaves attributes behind
    options: dict[str, Any] = {
        "in_channels": inputs * module.groups,
        "out_channels": outputs,
        "kernel_size": tuple(kernel),
        "stride": tuple(module.stride),
        "padding": module.padding if isinstance(module.padding, str) else tuple(module.padding),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
        "bias": module.bias is not None,
        "padding_mode": module.padding_mode,
    }
    name = next(n for n, kind in _TYPES.items() if isinstance(module, kind))
    return Kind(type=name, arguments=tuple(options.items()), shape=shape)
