"""2:4 sparse linear layers on CUDA GPUs, whose kernels read half of the weights."""

import warnings

import torch
from torch import nn
from torch.sparse import to_sparse_semi_structured

CAPABILITY = (8, 0)
"""The first GPUs with sparse tensor cores: Ampere."""
_ROWS, _COLUMNS = 32, 64
"""The sizes of a 16-bit weight must be multiples of these."""


def two_of_four(weight: torch.Tensor) -> bool:
    """True if every four consecutive weights of an output have at least two zeros."""
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    return bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())


def lacks_semi_structured(device: torch.device, dtype: torch.dtype) -> str | None:
    """Reason why 2:4 sparsity has no kernel for a device and type; None if it has."""
    if device.type != "cuda":
        return f"2:4 sparse kernels exist on CUDA devices only, this is {device.type}"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no sparse tensor cores"
    if dtype not in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        return f"2:4 sparse kernels take float16 and bfloat16, not {name}"
    return None


def with_semi_structured(model: nn.Module) -> int:
    """Convert the weights of 2:4 linear layers, in place, to the form of sparse tensor cores.

    Returns the number of converted layers; layers of other sizes or patterns stay dense. The model
    is on its device, in its type and only for inference. Source: Mishra et al. 2021, Accelerating
    sparse deep neural networks.
    """
    count = 0
    for layer in model.modules():
        if type(layer) is not nn.Linear:
            continue
        weight = layer.weight.detach()
        if lacks_semi_structured(weight.device, weight.dtype):
            continue
        rows, columns = weight.shape
        if rows % _ROWS or columns % _COLUMNS or not two_of_four(weight):
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of SparseSemiStructuredTensor")
            sparse = to_sparse_semi_structured(weight.contiguous())
        layer.weight = nn.Parameter(sparse, requires_grad=False)
        count += 1
    return count
