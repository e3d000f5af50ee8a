"""torch.compile ahead of time for GPUs: Triton kernels and tensor-core libraries in one package."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._inductor as inductor
from torch import Tensor, nn
from torch.utils._triton import has_triton

from objectives.runtimes import _cuda, _stored
from objectives.runtimes._codes import spelled
from objectives.runtimes._runtime import Export
from objectives.runtimes._torch import converted, inputs_as
from spaces import Encoding, Infeasible
from spaces._inputs import transform


def refuses(encoding: Encoding, kinds: frozenset[str]) -> str | None:
    """Return why an encoding has no real kernels on the GPU."""
    if reason := _cuda.lacks_cuda():
        return reason
    if not has_triton():
        return "Inductor compiles for GPUs through Triton, which is not installed."
    if not encoding.quantized:
        return None
    if encoding.packed or (encoding.weight_bits, encoding.activation_bits) != (8, 8):
        return (
            f"Inductor has no kernel for {spelled(encoding)} with {encoding.activation_bits}-bit "
            "activations on GPUs."
        )
    if "Linear" not in kinds:
        return "Inductor's 8-bit layers on GPUs are linear ones, and this model has none."
    return _cuda.lacks_integers()


def prepared(export: Export) -> tuple[nn.Module, Any]:
    """Return the model and its inputs as they are compiled: on the GPU, in the encoding's type."""
    name = export.encoding.dtype
    model = converted(export.model, name)
    if export.encoding.quantized:
        layers = {n: m for n, m in model.named_modules() if type(m) is nn.Linear and _cuda.fits(m)}
        if not layers:
            raise Infeasible("No linear layer has sizes that 8-bit tensor cores take.")
        for layer, module in layers.items():
            whole = _stored.rounded(module.weight)
            model.set_submodule(layer, _cuda.IntegerLinear(whole, module.bias))
    inputs = transform(inputs_as(export.example, name), lambda tensor: tensor.cuda())
    return model.cuda(), inputs


def loaded(package: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return the package as a function of tensors on the current GPU."""
    index = torch.cuda.current_device()
    loader = inductor.aoti_load_package(str(package), device_index=index).loader

    def function(tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(loader.boxed_run(list(tensors)))  # it empties the list that it is given

    return function
