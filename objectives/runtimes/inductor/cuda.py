"""torch.compile ahead of time for GPUs: Triton kernels and tensor-core libraries in one package."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from objectives.exporting import cuda, spelled, torch_modules, uncalibrated
from objectives.kernels import eight_bits, multiplies_in_8_bits, tensor_cores, with_eight_bits
from objectives.runtime import Export
from objectives.runtimes.inductor import package
from spaces import Encoding
from spaces.modules import transform


def refuses(encoding: Encoding, kinds: frozenset[str]) -> str | None:
    """Return why an encoding has no real kernels on the GPU."""
    if reason := cuda.lacks_cuda():
        return reason
    if reason := _lacks_triton():
        return reason
    if encoding.dtype == "float8":
        if encoding.quantized:
            return "A layer multiplies in float8 or by integers, and both were asked for."
        if "Linear" not in kinds:
            return "Inductor's float8 layers are linear ones, and this model has none."
        return tensor_cores.lacks_float8()
    if not encoding.quantized:
        return None
    if encoding.packed or (encoding.weight_bits, encoding.activation_bits) != (8, 8):
        return (
            f"Inductor has no kernel for {spelled(encoding)} with {encoding.activation_bits}-bit "
            "activations on GPUs."
        )
    if "Linear" not in kinds:
        return "Inductor's 8-bit layers on GPUs are linear ones, and this model has none."
    if reason := uncalibrated(encoding, "on GPUs Inductor finds"):
        return reason
    return tensor_cores.lacks_integers()


def _lacks_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Inductor compiles for GPUs through Triton, which is not installed."
    if torch.cuda.get_device_capability() < (7, 0):
        return "Inductor compiles through Triton, which needs a GPU of compute capability 7.0."
    return None


def prepared(export: Export) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return model and inputs as they are compiled, and what a manifest says of the layers.

    They are on the GPU, in the encoding's type.
    """
    name = export.encoding.dtype
    model = torch_modules.converted(export.model, name).cuda()
    inputs = transform(torch_modules.inputs_as(export.example, name), lambda tensor: tensor.cuda())
    if not multiplies_in_8_bits(export.encoding):
        return model, inputs, {}
    layers, notes = eight_bits(model, inputs, export.encoding, export.target)
    return with_eight_bits(model, layers, export.target).cuda(), inputs, notes


def loaded(file: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Return the package as a function of tensors on the current GPU."""
    index = torch.cuda.current_device()
    # torch documents that its bookkeeping for several threads conflicts with CUDA graphs
    loader = package.loader(file, run_single_threaded=True, device_index=index)

    def function(tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(loader.boxed_run(list(tensors)))  # it empties the list that it is given

    return function
