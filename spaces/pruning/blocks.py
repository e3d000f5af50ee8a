"""Find blocks that can be dropped: repeated modules that add something to their input."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, carried, drop, flatten
from spaces.modules.structure import Snapshot, coupling
from spaces.pruning.damage import ReferenceOutputs
from spaces.pruning.residual import residual


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """A module that could be dropped."""

    name: str
    module: nn.Module
    returns: int
    """Length of the tuple that it returns; 0 if it returns a tensor."""


def find(model: nn.Module, example: Any) -> list[Block]:
    """Return the outermost blocks that can each be dropped from `model`, in the model's order.

    Blocks are modules with submodules and parameters, of a class that the model has more than
    once, which are called once and add something to their input: a tensor, or a tuple that starts
    with it. Parts of blocks are not blocks, wherever they lie. `model` is in evaluation mode.
    """
    kinds = collections.Counter(type(module) for module in model.modules())
    candidates = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if kinds[type(module)] > 1
        and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        and any(True for _ in module.children())
        and any(True for _ in module.parameters())
    }
    lengths: dict[str, list[int | None]] = {}
    expected = _watched(model, example, candidates, lengths)
    called_once = {name: calls[0] for name, calls in lengths.items() if len(calls) == 1}
    blocks = [
        Block(name=name, module=candidates[name], returns=returns)
        for name, returns in called_once.items()
        if returns is not None
    ]
    blocks.sort(key=lambda block: list(candidates).index(block.name))
    outermost = _outermost(model, example, blocks)
    return [block for block in outermost if _survives(model, example, block, expected)]


def _outermost(model: nn.Module, example: Any, blocks: list[Block]) -> list[Block]:
    """Return the residual blocks that lie in no other; a stage is replaced by its blocks."""
    by_name = {b.name: b for b in blocks if residual(model, example, b.module)}
    proper = {name: b for name, b in by_name.items() if not _stage(name, by_name)}
    return [b for name, b in proper.items() if not any(a in proper for a in _ancestors(name))]


def _stage(name: str, blocks: dict[str, Block]) -> bool:
    """Return True if a block contains several blocks of equal structure, as a network's stage."""
    inside = [n for n in blocks if name in _ancestors(n)]
    nearest = [n for n in inside if not any(a in inside for a in _ancestors(n))]
    structures = [
        tuple((part, type(m)) for part, m in blocks[n].module.named_modules()) for n in nearest
    ]
    return len(set(structures)) < len(structures)


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _watched(
    model: nn.Module,
    example: Any,
    candidates: dict[str, nn.Module],
    lengths: dict[str, list[int | None]],
) -> list[torch.Size]:
    """Append `_returned_length` of each candidate's calls to `lengths`; return output shapes."""

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            lengths.setdefault(name, []).append(_returned_length(carried(args, kwargs), output))

        return hook

    hooks = [m.register_forward_hook(watch(n), with_kwargs=True) for n, m in candidates.items()]
    try:
        with torch.no_grad():
            return [t.shape for t in flatten(call(model, example))[0]]
    finally:
        for hook in hooks:
            hook.remove()


def _returned_length(hidden: Tensor | None, output: Any) -> int | None:
    """Return the length of a returned tuple, 0 for a tensor; None if no block returns `output`."""
    first = output[0] if isinstance(output, tuple) and output else output
    if hidden is None or not isinstance(first, Tensor):
        return None
    if first.shape != hidden.shape or first.dtype != hidden.dtype:
        return None
    return len(output) if isinstance(output, tuple) else 0


def _survives(model: nn.Module, example: Any, block: Block, expected: list[torch.Size]) -> bool:
    """Return True if the outputs without `block` are finite and have the expected shapes."""
    snapshot = Snapshot(model)
    drop(block.module, block.returns)
    try:
        with torch.no_grad():
            tensors = flatten(call(model, example))[0]
    except coupling.BUILD_ERRORS:
        return False
    finally:
        snapshot.restore()
    return [t.shape for t in tensors] == expected and all(bool(t.isfinite().all()) for t in tensors)


def least(model: nn.Module, blocks: list[Block], outputs: ReferenceOutputs) -> tuple[Block, float]:
    """Return the block whose removal does the least damage to the outputs, and the damage."""
    best, least_damage = blocks[0], math.inf
    snapshot = Snapshot(model)
    for block in blocks:
        drop(block.module, block.returns)
        try:
            damage = outputs.damage()
        finally:
            snapshot.restore()
        if damage < least_damage:
            best, least_damage = block, damage
    return best, least_damage
