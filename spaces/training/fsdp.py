"""Models of which each device stores only a part; imported only where one is needed.

Source: Zhao et al. 2023, PyTorch FSDP, section 3; here each parameter is divided by itself.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from spaces.training.features_term import blocks


def shard(model: nn.Module, device: torch.device, count: int) -> nn.Module:
    """Shard `model` in place, wherever it was, block by block over the devices and return it."""
    mesh = init_device_mesh(device.type, (count,))
    for name in blocks(model):
        fully_shard(model.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def reshard(model: nn.Module) -> None:
    """Let every device hold its part alone again, as after a backward pass.

    A forward pass by itself leaves the outermost parameters whole.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor that may be sharded as a plain one; every device must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
