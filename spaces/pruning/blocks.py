"""Blocks: repeated modules that write what they read in the same shape, so that they can go."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spaces.modules import call, carried, drop, flatten
from spaces.modules.structure import Snapshot, coupling
from spaces.pruning.damage import Outputs
from spaces.pruning.residual import residual


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """A module that could be dropped."""

    name: str
    module: nn.Module
    returns: int
    """Length of the tuple that it returns; 0 where it returns a tensor."""


def find(model: nn.Module, example: Any) -> list[Block]:
    """Return the outermost blocks that `model` works without, each alone, in their order.

    Blocks are modules with layers of their own, of a class that the model has more than once,
    which are called once and add something to what they are given: a tensor, or a tuple with it
    first. Parts of blocks are none, wherever they lie. `model` is in evaluation mode.
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
    seen: dict[str, list[int | None]] = {}
    expected = _watched(model, example, candidates, seen)
    alike = {name: calls[0] for name, calls in seen.items() if len(calls) == 1}
    blocks = [
        Block(name=name, module=candidates[name], returns=returns)
        for name, returns in alike.items()
        if returns is not None
    ]
    blocks.sort(key=lambda block: list(candidates).index(block.name))
    outermost = _outermost(model, example, blocks)
    return [block for block in outermost if _survives(model, example, block, expected)]


def _outermost(model: nn.Module, example: Any, blocks: list[Block]) -> list[Block]:
    """Return the residual blocks that lie in no other, but those of stages in place of stages."""
    found = {b.name: b for b in blocks if residual(model, example, b.module)}
    own = {name: b for name, b in found.items() if not _stage(name, found)}
    return [b for name, b in own.items() if not any(above in own for above in _above(name))]


def _stage(name: str, found: dict[str, Block]) -> bool:
    """Whether a block consists of several of the same build, as the stage of a network does."""
    inside = [n for n in found if name in _above(n)]
    nearest = [n for n in inside if not any(above in inside for above in _above(n))]
    builds = [
        tuple((part, type(m)) for part, m in found[n].module.named_modules()) for n in nearest
    ]
    return len(set(builds)) < len(builds)


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _watched(
    model: nn.Module,
    example: Any,
    candidates: dict[str, nn.Module],
    seen: dict[str, list[int | None]],
) -> list[torch.Size]:
    """Note what each call of a candidate returns: see `_kind`. Return the outputs' shapes."""

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen.setdefault(name, []).append(_kind(carried(args, kwargs), output))

        return hook

    hooks = [m.register_forward_hook(watch(n), with_kwargs=True) for n, m in candidates.items()]
    try:
        with torch.no_grad():
            return [t.shape for t in flatten(call(model, example))[0]]
    finally:
        for hook in hooks:
            hook.remove()


def _kind(given: Tensor | None, output: Any) -> int | None:
    """Return the length of a returned tuple or 0 for a tensor; None where no block returns that."""
    first = output[0] if isinstance(output, tuple) and output else output
    if given is None or not isinstance(first, Tensor):
        return None
    if first.shape != given.shape or first.dtype != given.dtype:
        return None
    return len(output) if isinstance(output, tuple) else 0


def _survives(model: nn.Module, example: Any, block: Block, expected: list[torch.Size]) -> bool:
    whole = Snapshot(model)
    drop(block.module, block.returns)
    try:
        with torch.no_grad():
            tensors = flatten(call(model, example))[0]
    except coupling.BUILD_ERRORS:
        return False
    finally:
        whole.restore()
    return [t.shape for t in tensors] == expected and all(bool(t.isfinite().all()) for t in tensors)


def least(model: nn.Module, blocks: list[Block], outputs: Outputs) -> tuple[Block, float]:
    """Return the block without which the outputs move least, and how far they do."""
    best, damage = blocks[0], math.inf
    whole = Snapshot(model)
    for block in blocks:
        drop(block.module, block.returns)
        try:
            moved = outputs.moved()
        finally:
            whole.restore()
        if moved < damage:
            best, damage = block, moved
    return best, damage
