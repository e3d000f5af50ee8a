"""Choose and replace linear layers that are multiplied in 8 bits: integers or float8."""

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
    """True if an encoding asks for products of 8-bit numbers."""
    return encoding.dtype == "float8" or encoding.activation_bits == 8


def eight_bits(
    model: nn.Module, inputs: Any, encoding: Encoding, target: Target
) -> tuple[dict[str, Rounded], dict[str, Any]]:
    """Return the 8-bit weights of the layers that can have them, by layer, and manifest notes.

    The model and its inputs are on the target's device; the 8-bit weights are on the CPU. Raises
    Infeasible if no layer can have them.
    """
    float8 = encoding.dtype == "float8"
    layers = linears(model, inputs)
    fits = Float8Linear.fits if float8 else kernels_of(target.device).fits
    fitting = {name: layer for name, layer in layers.replaceable.items() if fits(layer)}
    if not layers.replaceable:
        raise Infeasible("The model reads the weights of all its linear layers itself.")
    if not fitting:
        name = "float8" if float8 else "8-bit"
        raise Infeasible(f"No linear layer has sizes that {name} tensor cores take.")
    kind = torch.float8_e4m3fn if float8 else torch.int8
    weights = {name: rounded(layer.weight.cpu(), kind) for name, layer in fitting.items()}
    return weights, layers.notes()


def with_eight_bits(model: nn.Module, layers: Mapping[str, Rounded], target: Target) -> nn.Module:
    """Return `model`, edited in place, with the 8-bit layers of the target's device."""
    kernels = kernels_of(target.device)
    for name, weight in layers.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        floating = weight.values.is_floating_point()
        kind = Float8Linear if floating else kernels.integer_linear
        model = replaced(model, name, kind(weight, layer.bias))
    return model
