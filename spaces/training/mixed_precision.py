"""Mixed precision of recovery training: supported types, autocast, loss scaling, float8."""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from spaces.devices import device_of
from spaces.plan import Recovery
from spaces.technique import Infeasible

TYPES = ("auto", "float32", "bfloat16", "float16", "float8")
SCALE = 2.0**12
"""Initial factor of the loss under float16; it halves whenever a gradient overflows."""
FLOAT8_MULTIPLE = 16
"""Float8 kernels need widths of linear layers that are multiples of this."""


def refusal(recovery: Recovery, kind: str) -> str | None:
    """Return the reason why a device of `kind` cannot train as `recovery` says; None if it can."""
    dtype, device = recovery.dtype, device_of(kind)
    if recovery.steps == 0 or dtype in ("auto", "float32"):
        return None
    if dtype == "float8" and not device.trains_in(dtype):
        return (
            "precision.training float8 needs a CUDA GPU of compute capability 8.9 or above "
            "(Ada, Hopper)"
        )
    if not device.trains_in(dtype):
        emulated = f"precision.training {dtype} is only emulated by this"
        if device.accelerator:
            return f"{emulated} {device.accelerator}"
        return f"{emulated} processor, which takes ten times as long as float32"
    if dtype == "float16" and recovery.sharding == "shard" and recovery.devices > 1:
        return "precision.training float16 scales no gradients of a sharded model; use bfloat16"
    return None


def autocast_type(dtype: str) -> torch.dtype | None:
    """Return the type of autocast; None for float32 throughout."""
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float8": torch.bfloat16}
    return kinds.get(dtype)


def scaler(dtype: str, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler of losses and gradients, which is only enabled for float16.

    Source: Micikevicius et al. 2018, section 3.2.
    """
    return torch.amp.GradScaler(device.type, init_scale=SCALE, enabled=dtype == "float16")


@contextlib.contextmanager
def in_float8(model: nn.Module, *, emulate: bool = False) -> Iterator[None]:
    """Compute the linear layers of `model` in float8 inside the block; parameters stay the same.

    Layers with widths that the kernels do not support, and layers with parametrized weights, are
    not converted. `emulate` computes the same numbers without the kernels. Raises Infeasible if no
    layer can be converted.
    """
    with warnings.catch_warnings():  # torchao's docstrings have invalid escapes
        warnings.simplefilter("ignore", SyntaxWarning)
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    plain = {
        name: module
        for name, module in model.named_modules()
        if name and type(module) is nn.Linear and _suits(module)
    }
    if not plain:
        raise Infeasible(
            "precision.training float8 found no linear layer to compute: widths must be "
            f"multiples of {FLOAT8_MULTIPLE}"
        )
    config = Float8LinearConfig(pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(model, module_filter_fn=lambda _, name: name in plain, config=config)
    try:
        with warnings.catch_warnings():  # torchao calls a function that torch has deprecated
            warnings.filterwarnings("ignore", "torch.get_autocast_gpu_dtype", DeprecationWarning)
            yield
    finally:
        for name, module in plain.items():
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module)


def _suits(layer: nn.Linear) -> bool:
    widths = (layer.in_features, layer.out_features)
    return all(width % FLOAT8_MULTIPLE == 0 for width in widths)
