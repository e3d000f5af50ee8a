"""Least squares: what stays of a layer is refitted to write what the whole layer wrote."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces._inputs import call
from spaces._task import Task
from spaces.prune._readers import batches, matrix, pick, read, readable, written
from spaces.prune._removal import Removal, Snapshot
from spaces.prune._surgeon import DAMPING


class _Seen(Exception):
    """Raised by a hook once a layer was seen: what follows need not be computed."""


def refit(model: nn.Module, whole: Snapshot, task: Task, removals: Sequence[Removal]) -> None:
    """Refit the layers of `model` from which columns were removed; `whole` is what it was before.

    Layer by layer in the order of the computation: the weights become those with which the layer,
    reading what the pruned model gives it, comes closest to what it wrote in the whole model (He
    et al. 2017, Channel pruning for accelerating very deep networks, section 3.2), with a ridge
    towards the weights that it has.
    """
    kept = _kept(removals)
    shared = _shared(model)
    cut = [
        name
        for (name, side), channels in kept.items()
        if side == "in"
        and readable(model.get_submodule(name))
        and id(model.get_submodule(name).weight) not in shared
    ]
    data = list(batches(task))
    for name in _order(model, cut, data[0]):
        _layer(model, whole, name, kept.get((name, "out")), data)


def _kept(removals: Sequence[Removal]) -> dict[tuple[str, str], Tensor]:
    """Return the channels that stay of each cut side."""
    stay: dict[tuple[str, str], Tensor] = {}
    for removal in removals:
        for member in removal.family.members:
            gone = member.channels(removal.units)
            if gone:
                key = (member.name, str(member.side))
                here = stay.setdefault(key, torch.ones(member.unit.numel(), dtype=torch.bool))
                here[gone] = False
    return {key: here.nonzero().flatten() for key, here in stay.items()}


def _shared(model: nn.Module) -> set[int]:
    """Return the ids of parameters that stand in several modules."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, times in seen.items() if times > 1}


def _order(model: nn.Module, names: Sequence[str], inputs: Any) -> list[str]:
    """Return those of `names` that are used exactly once in a pass, in their order."""
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    hooks = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in dict.fromkeys(calls) if calls.count(name) == 1]


def _layer(
    model: nn.Module, whole: Snapshot, name: str, outputs: Tensor | None, data: Sequence[Any]
) -> None:
    """Give one layer its new weights, in place of the old ones."""
    pruned = Snapshot(model)
    present = matrix(model.get_submodule(name))
    moments = torch.zeros(present.shape[1], present.shape[1], dtype=torch.float64)
    products = torch.zeros(present.shape[1], present.shape[0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for inputs in data:
        whole.restore()
        (_, goal) = _at(model, name, inputs)
        places = pick(model.get_submodule(name), goal, generator, inputs)
        wanted = written(model.get_submodule(name), goal, places)
        pruned.restore()
        module = model.get_submodule(name)
        (given, _) = _at(model, name, inputs)
        seen = read(module, given, places)
        if outputs is not None:
            wanted = wanted[:, outputs]
        moments += (seen.T @ seen).double()
        products += (seen.T @ wanted).double()
    ridge = DAMPING * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    change = torch.linalg.solve(moments + ridge, products - moments @ present.T).T
    if bool(change.isfinite().all()):
        write(model.get_submodule(name), present + change)


def _at(model: nn.Module, name: str, inputs: Any) -> tuple[Tensor, Tensor]:
    """Return what a layer reads and writes for `inputs`."""
    found: list[tuple[Tensor, Tensor]] = []

    def stop(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        found.append((args[0], output))
        raise _Seen

    hook = model.get_submodule(name).register_forward_hook(stop)
    try:
        with torch.no_grad():
            call(model, inputs)
    except _Seen:
        pass
    finally:
        hook.remove()
    return found[0]


def write(module: nn.Module, new: Tensor) -> None:
    """Store a matrix as new parameters: the old tensors may be those of the whole model."""
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    weight = module.weight
    if module.bias is not None:
        bias = new[:, -1].to(weight.dtype)
        module.bias = nn.Parameter(bias.clone(), requires_grad=module.bias.requires_grad)
        new = new[:, :-1]
    values = new.reshape(weight.shape).to(weight.dtype).contiguous()
    module.weight = nn.Parameter(values, requires_grad=weight.requires_grad)
