"""Remove units from a model, and verify that the remaining channels compute the same values."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from spaces.messages import first_line
from spaces.modules.caches import Caches
from spaces.modules.layer_types import Convolution, TransposedConvolution
from spaces.modules.module_tables import copied_attributes
from spaces.modules.structure.coupling import BUILD_ERRORS
from spaces.modules.structure.families import Family
from spaces.modules.structure.matrices import transposed
from spaces.modules.trees import call, flatten

TOLERANCE = 1e-3
"""Largest difference of outputs, relative to the largest output, that counts as rounding."""

_LENGTHS = ("dim", "size", "width", "channels", "features")
"""Parts of attribute names that distinguish a width from a number of heads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
    """Units of one family that are to be removed."""

    family: Family
    units: tuple[int, ...]


class Snapshot:
    """A copy of the state of a model's modules; tensors are shared, not copied."""

    def __init__(self, model: nn.Module) -> None:
        self._saved = [(m, type(m), copied_attributes(m.__dict__)) for m in model.modules()]

    def restore(self) -> None:
        """Restore the state of all modules; tensors that were edited in place stay edited."""
        for module, kind, state in self._saved:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(copied_attributes(state))


class _PlainNorms(TorchFunctionMode):
    """Reduces normalisation across channels to its scale and shift.

    The result of such a norm for one channel depends on all others, so a model without some
    channels differs from one in which they are zero. Without the normalisation both are equal.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` unless it normalises across channels."""
        kwargs = kwargs or {}
        if func not in (F.layer_norm, F.group_norm):
            return func(*args, **kwargs)
        arguments = dict(zip(("input", "shape", "weight", "bias"), args, strict=False)) | kwargs
        shape = (1, -1, *[1] * (arguments["input"].dim() - 2)) if func is F.group_norm else (-1,)
        output = arguments["input"]
        if arguments.get("weight") is not None:
            output = output * arguments["weight"].view(shape)
        if arguments.get("bias") is not None:
            output = output + arguments["bias"].view(shape)
        return output


def attempt(model: nn.Module, example: Any, removals: Sequence[Removal]) -> str | None:
    """Remove units from `model`; return the reason why the result is wrong, None if it is right.

    It is right if the outputs have the old shapes, are finite, and equal those of the whole model
    with zero weights wherever a removed channel is read.
    """
    plain = any(_normalises(r.family) for r in removals)
    before, caches = Snapshot(model), Caches(model)
    try:
        _mask(removals)
        expected = _outputs(model, example, plain)
        before.restore()
        caches.restore()
        _cut(model, removals)
        actual = _outputs(model, example, plain)
        final = _outputs(model, example, plain=False) if plain else actual
    except BUILD_ERRORS as error:
        return f"what is left does not run ({first_line(error)})"
    finally:
        caches.restore()
    shapes = [[tuple(t.shape) for t in tensors] for tensors in (expected, final)]
    if shapes[0] != shapes[1]:
        return f"outputs of shapes {shapes[0]} become {shapes[1]}"
    if not all(bool(t.isfinite().all()) for t in final):
        return "outputs are not finite"
    if not all(_close(a, b) for a, b in zip(actual, expected, strict=True)):
        return "the channels that stay no longer compute what they did"
    return None


def _normalises(family: Family) -> bool:
    return any(isinstance(m.module, nn.LayerNorm | nn.GroupNorm) for m in family.members)


def _outputs(model: nn.Module, example: Any, plain: bool) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if not plain:
            return flatten(call(model, example))[0]
        with _PlainNorms():
            return flatten(call(model, example))[0]


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    scale = float(b.abs().max()) if b.numel() else 0.0
    return bool(torch.allclose(a, b, rtol=0.0, atol=TOLERANCE * scale + 1e-9, equal_nan=True))


def _mask(removals: Sequence[Removal]) -> None:
    """Set the weights that read removed channels to zero, on copies of the parameters."""
    for removal in removals:
        for member in removal.family.members:
            module, removed = member.module, member.channels(removal.units)
            reader = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
            reads = member.side == "in" or reader is not module
            multiplies = transposed(reader) or isinstance(reader, nn.Linear | Convolution)
            if reads and removed and multiplies:
                assert isinstance(reader.weight, Tensor)
                weight = reader.weight.detach().clone()
                _zero(reader, weight, removed)
                reader.weight = nn.Parameter(weight)


def _zero(module: nn.Module, weight: Tensor, channels: list[int]) -> None:
    if transposed(module) or isinstance(module, TransposedConvolution):
        weight[channels] = 0
    elif isinstance(module, Convolution) and module.groups > 1:
        rows, columns = weight.shape[0] // module.groups, weight.shape[1]
        for channel in channels:
            group, column = divmod(channel, columns)
            weight[group * rows : (group + 1) * rows, column] = 0
    else:
        weight[:, channels] = 0


def _cut(model: nn.Module, removals: Sequence[Removal]) -> None:
    """Cut each side once, with all channels to be removed from it, and update stale attributes."""
    cuts: dict[tuple[int, str], tuple[Callable[[list[int]], object], set[int]]] = {}
    for removal in removals:
        for member in removal.family.members:
            key = (id(member.module), member.side)
            cuts.setdefault(key, (member.cut, set()))[1].update(member.channels(removal.units))
    for cut, channels in cuts.values():
        if channels:
            cut(sorted(channels))
    for removal in removals:
        _refresh(model, removal)


def _refresh(model: nn.Module, removal: Removal) -> None:
    """Update integer attributes around the cut layers that equal old numbers of heads or widths."""
    family = removal.family
    remaining = family.units - len(removal.units)
    for module in _owners(model, [m.name for m in family.members]):
        for key, value in list(vars(module).items()):
            if type(value) is int and _stale(family, key, value):
                setattr(module, key, value * remaining // family.units)


def _stale(family: Family, key: str, value: int) -> bool:
    """Return True if an attribute is a number of heads or a width of the whole family."""
    if any(word in key for word in family.unchanged):
        return False
    length = any(word in key for word in _LENGTHS)
    return value in family.widths or (value in family.counts and not length)


def _owners(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return the user's own modules that may store sizes of the layers `names`.

    They are the modules around the layers, up to the closest one that contains them all, and below
    the layers' parents the modules without parameters, hence without sizes of their own.
    """
    paths = [name.split(".")[:-1] for name in names]
    depth = 0
    while all(len(p) > depth for p in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1
    modules: dict[nn.Module, None] = {}
    for path in paths:
        for end in range(depth, len(path) + 1):
            modules[model.get_submodule(".".join(path[:end]))] = None
        parent = model.get_submodule(".".join(path))
        modules |= dict.fromkeys(
            m for m in parent.modules() if not any(True for _ in m.parameters())
        )
    return [m for m in modules if not type(m).__module__.startswith("torch.nn.")]
