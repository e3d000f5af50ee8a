"""Weight, bias and cuts of linear layers, including those that store the weight transposed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spaces.modules.module_tables import own_parameters
from spaces.modules.structure.families import Side


def linear(module: nn.Module) -> bool:
    """Return True if a layer multiplies the last axis of its input by its stored weight."""
    plain = type(module).forward is nn.Linear.forward or transposed(module)
    return plain and isinstance(own_parameters(module).get("weight"), nn.Parameter)


def transposed(module: nn.Module) -> bool:
    """Return True for transformers' Conv1D: a linear layer with a weight (inputs, outputs)."""
    # by its name, since transformers may not be installed
    kind = type(module)
    return (kind.__module__, kind.__qualname__) == ("transformers.pytorch_utils", "Conv1D")


def weight(module: nn.Module) -> Tensor:
    """Return a layer's weight as (outputs, inputs, *kernel)."""
    stored = _stored(module)
    return stored.T if transposed(module) else stored


def bias(module: nn.Module) -> nn.Parameter | None:
    """Return a layer's bias, if it has one."""
    return own_parameters(module).get("bias")


def trainable(module: nn.Module) -> bool:
    """Return True if a layer's weight requires gradients."""
    return _stored(module).requires_grad


def inputs(module: nn.Module) -> int:
    """Return the number of channels that a linear layer reads."""
    return int(weight(module).shape[1])


def cutter(module: nn.Module, side: Side) -> Callable[[list[int]], None]:
    """Return a function that cuts channels from one side of a linear layer."""

    def cut(channels: list[int]) -> None:
        axis = _output_axis(module) if side == "out" else 1 - _output_axis(module)
        stored = _stored(module)
        mask = torch.ones(stored.shape[axis], dtype=torch.bool)
        mask[channels] = False
        remaining = mask.nonzero().flatten().to(stored.device)
        module.weight = _selected(stored, axis, remaining)
        shift = bias(module)
        if side == "out" and shift is not None:
            module.bias = _selected(shift, 0, remaining)
        names = ("nf", "nx") if transposed(module) else ("out_features", "in_features")
        setattr(module, names[side == "in"], len(remaining))

    return cut


def _selected(parameter: Tensor, axis: int, indices: Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(axis, indices)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _stored(module: nn.Module) -> Tensor:
    stored = module.weight
    assert isinstance(stored, Tensor)
    return stored


def _output_axis(module: nn.Module) -> int:
    """Return the axis of the outputs in the stored weight."""
    return int(transposed(module))
