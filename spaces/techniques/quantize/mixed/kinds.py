"""Kinds of layers: the type, arguments and input shape on which a layer's time depends."""

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
    """Arguments of the layer's constructor."""
    shape: tuple[int, ...]
    """Shape of its input at the target's batch size; dimension 0 is the batch."""

    def model(self) -> nn.Module:
        """Return a model of one layer of this kind, with the same values at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = _TYPES[self.type](**dict(self.arguments))
        return nn.Sequential(layer).eval()

    def inputs(self) -> Tensor:
        """Return an input, with the same values at every call."""
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(0))

    @property
    def work(self) -> float:
        """Number of multiplications, ignoring strides, by which kinds are ranked."""
        arguments = dict(self.arguments)
        if self.type == "Linear":
            return float(math.prod(self.shape) * arguments["out_features"])
        kernel = math.prod(arguments["kernel_size"]) / arguments["groups"]
        return float(math.prod(self.shape) * arguments["out_channels"] * kernel)

    def __str__(self) -> str:
        """Return a short description of the kind, for the record."""
        arguments = dict(self.arguments)
        if self.type == "Linear":
            widths = f"{arguments['in_features']} to {arguments['out_features']}"
            return f"Linear {widths} of {list(self.shape)}"
        kernel = "x".join(map(str, arguments["kernel_size"]))
        groups = f", groups {arguments['groups']}" if arguments["groups"] > 1 else ""
        size = f"{arguments['in_channels']} to {arguments['out_channels']}, {kernel}{groups}"
        return f"{self.type} {size} of {list(self.shape)}"


def kinds(model: nn.Module, inputs: Any) -> dict[str, list[Kind]]:
    """Return, for each weight of `layers(model)`, the kinds of the layers that use it.

    Recorded in one pass over a batch, once for every call, so that a weight that several layers
    share counts for each of them. Embedding tables are left out, since looking up takes the same
    time at any width. Attention counts as linear layers with the shapes of its projections.
    """
    names = {id(layer.weight): name for name, layer in layers(model).items()}
    uses: dict[str, list[Kind]] = {name: [] for name in names.values()}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        for weight, kind in _used(module, tensors[0]) if tensors else ():
            if id(weight) in names:
                uses[names[id(weight)]].append(kind)

    hooks = [m.register_forward_pre_hook(look, with_kwargs=True) for m in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return uses


def _used(module: nn.Module, inputs: Tensor) -> Iterator[tuple[Tensor, Kind]]:
    """Yield the weights by which a module multiplies `inputs`, with their kinds."""
    if isinstance(module, nn.MultiheadAttention):
        if inputs.dim() == 3:
            shape = inputs.shape if module.batch_first else inputs.transpose(0, 1).shape
            for weight in (module.in_proj_weight, module.out_proj.weight):
                if weight is not None:  # None if keys or values have another width
                    yield weight, _linear(weight, module.in_proj_bias is not None, tuple(shape))
    elif isinstance(module, nn.Linear):
        yield module.weight, _linear(module.weight, module.bias is not None, tuple(inputs.shape))
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and inputs.dim() == (
        module.weight.dim()  # a single sample without a batch has one dimension less
    ):
        yield module.weight, _convolution(module, tuple(inputs.shape))


def _linear(weight: Tensor, bias: bool, shape: tuple[int, ...]) -> Kind:
    outputs, inputs = weight.shape
    options = {"in_features": inputs, "out_features": outputs, "bias": bias}
    return Kind(type="Linear", arguments=tuple(options.items()), shape=(*shape[:-1], inputs))


def _convolution(module: Convolution, shape: tuple[int, ...]) -> Kind:
    outputs, inputs, *kernel = module.weight.shape  # attributes may be stale after pruning
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
