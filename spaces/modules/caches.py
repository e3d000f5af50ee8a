"""Tensors that a model's code keeps as plain attributes, and dicts and lists in which it does."""

from typing import Any

from torch import Tensor, nn

_OWN = frozenset(vars(nn.Module()))
"""Attributes of every module: tables of tensors, hooks, submodules."""


class Caches:
    """The content of a model's caches, to which they can be put back.

    Code may keep what it computes from weights, such as a bias for each position of attention.
    After the weights have changed it is stale, and computed with gradients it cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember the caches of all modules of `model` as they are."""
        self._modules = list(model.modules())
        self._tensors = [_tensors(module) for module in self._modules]
        self._containers = [(c, c.copy()) for m in self._modules for c in _containers(m)]

    def restore(self) -> None:
        """Put the caches back, in place; what was not there before is removed."""
        for module, before in zip(self._modules, self._tensors, strict=True):
            for key in _tensors(module).keys() - before.keys():
                vars(module)[key] = None
            vars(module).update(before)
        for container, content in self._containers:
            container.clear()
            container.update(content) if isinstance(container, dict) else container.extend(content)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in vars(module).items() if k not in _OWN and isinstance(v, Tensor)}


def _containers(module: nn.Module) -> list[Any]:
    plain = (v for k, v in vars(module).items() if k not in _OWN)
    return [value for value in plain if type(value) in (dict, list)]
