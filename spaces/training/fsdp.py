"""Shard models over devices by PyTorch FSDP; imported only if a model is sharded.

Source: Zhao et al. 2023, PyTorch FSDP, section 3; here each parameter is divided separately.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from spaces.training.features_term import blocks


def shard(model: nn.Module, device: torch.device, count: int) -> nn.Module:
    """Shard `model` in place, block by block over the devices, and return it.

    It may be on any device before.
    """
    mesh = init_device_mesh(device.type, (count,))
    for name in blocks(model):
        fully_shard(model.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def reshard(model: nn.Module) -> None:
    """Let every device hold only its part again, as after a backward pass.

    A forward pass alone leaves the outermost parameters gathered.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(tensor: Tensor) -> Tensor:
    """Return a possibly sharded tensor as a plain one; every device must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def part(tensor: Tensor) -> Tensor:
    """Return this device's part of a sharded tensor, in the same memory.

    Operations on plain tensors of a model take a hundredth of the host's time of those on DTensors.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
