"""Identity of a model: a digest of its tensors and of the plain attributes of its modules."""

import hashlib

import torch
from torch import nn


def identity(model: nn.Module) -> str:
    """Return a sha256 that two models share only if they compute the same.

    It covers classes, parameters, buffers, and numbers, strings and tuples among the attributes,
    such as a number of heads. Code and other attributes are the same within a search.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules(remove_duplicate=False):
        attributes = {k: v for k, v in vars(module).items() if k != "training" and _plain(v)}
        digest.update(f"{name} {type(module).__qualname__} {sorted(attributes.items())}".encode())
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_plain(v) for v in value)
    return isinstance(value, int | float | str)
