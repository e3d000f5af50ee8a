"""Linear layers, whichever way around they hold their weight, and the cuts of their sides."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spaces.modules.module_tables import own_parameters
from spaces.modules.structure.families import Side


def linear(module: nn.Module) -> bool:
    """Whether a layer multiplies the last axis of what it reads with its weight, as it is held."""
    plain = type(module).forward is nn.Linear.forward or transposed(module)
    return plain and isinstance(own_parameters(module).get("weight"), nn.Parameter)


def transposed(module: nn.Module) -> bool:
    """Whether a layer is Conv1D of transformers: a linear layer with a weight (inputs, outputs)."""
    # by its name: transformers is not installed everywhere
    kind = type(module)
    return (kind.__module__, kind.__qualname__) == ("transformers.pytorch_utils", "Conv1D")


def weight(module: nn.Module) -> Tensor:
    """Return a layer's weight as (outputs, inputs, *kernel)."""
    held = _held(module)
    return held.T if transposed(module) else held


def bias(module: nn.Module) -> nn.Parameter | None:
    """Return a layer's bias, if it has one."""
    return own_parameters(module).get("bias")


def trains(module: nn.Module) -> bool:
    """Whether a layer's weight requires gradients."""
    return _held(module).requires_grad


def inputs(module: nn.Module) -> int:
    """Return how many channels a linear layer reads."""
    return int(weight(module).shape[1])


def cutter(module: nn.Module, side: Side) -> Callable[[list[int]], None]:
    """Return the cut of channels from one side of a linear layer."""

    def cut(channels: list[int]) -> None:
        axis = _outputs(module) if side == "out" else 1 - _outputs(module)
        held = _held(module)
        stay = torch.ones(held.shape[axis], dtype=torch.bool)
        stay[channels] = False
        kept = stay.nonzero().flatten().to(held.device)
        module.weight = _selected(held, axis, kept)
        shift = bias(module)
        if side == "out" and shift is not None:
            module.bias = _selected(shift, 0, kept)
        names = ("nf", "nx") if transposed(module) else ("out_features", "in_features")
        setattr(module, names[side == "in"], len(kept))

    return cut


def _selected(parameter: Tensor, axis: int, kept: Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(axis, kept)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _held(module: nn.Module) -> Tensor:
    held = module.weight
    assert isinstance(held, Tensor)
    return held


def _outputs(module: nn.Module) -> int:
    """Return the axis of the weight that holds the outputs."""
    return int(transposed(module))
