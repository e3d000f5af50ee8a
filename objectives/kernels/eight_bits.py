"""Linear layers in 8 bits, integers or float8: which of a model's can be, and their kernels."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from objectives.exporting import Rounded, rounded
from objectives.kernels.by_device import kernels_of
from objectives.kernels.replaceable import linears, replaced
from objectives.kernels.tensor_cores import Float8Linear
from objectives.target import Target
from spaces import Encoding, Infeasible


def multiplies_in_8_bits(encoding: Encoding) -> bool:
    """Whether an encoding asks for products of 8-bit numbers."""
    return encoding.dtype == "float8" or encoding.activation_bits == 8


def eight_bits(
    model: nn.Module, inputs: Any, encoding: Encoding, target: Target
) -> tuple[dict[str, Rounded], dict[str, Any]]:
    """Return the weights that are multiplied in 8 bits, by layer, and what a manifest says of it.

    The model and its inputs are where they are to run; the weights are on the CPU. Raises
    Infeasible if no layer can have them.
    """
    float8 = encoding.dtype == "float8"
    every = linears(model, inputs)
    fits = Float8Linear.fits if float8 else kernels_of(target.device).fits
    found = {name: layer for name, layer in every.called.items() if fits(layer)}
    if not every.called:
        raise Infeasible("The model reads the weights of all its linear layers itself.")
    if not found:
        name = "float8" if float8 else "8-bit"
        raise Infeasible(f"No linear layer has sizes that {name} tensor cores take.")
    kind = torch.float8_e4m3fn if float8 else torch.int8
    return {n: rounded(layer.weight.cpu(), kind) for n, layer in found.items()}, every.remark()


def with_eight_bits(model: nn.Module, layers: Mapping[str, Rounded], target: Target) -> nn.Module:
    """Return `model` with the 8-bit layers of a device, edited in place."""
    kernels = kernels_of(target.device)
    for name, weight in layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        floating = weight.values.is_floating_point()
        kind = Float8Linear if floating else kernels.integer_linear
        model = replaced(model, name, kind(weight, layer.bias))
    return model
