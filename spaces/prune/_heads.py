"""Attention heads: how layers are split into them, and the families they form."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spaces._attention import PrunedAttention
from spaces._inputs import call
from spaces.prune._family import Family, Member

_SPLITS = frozenset({"view", "reshape", "unflatten", "view_as", "reshape_as"})


class _Splits(TorchFunctionMode):
    """Sees the outputs of linear layers being split along their last axis."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[int, nn.Module] = {}
        self.alive: list[Tensor] = []
        self.lengths: dict[nn.Module, int] = {}

    def mark(self, tensor: Tensor, origin: nn.Module) -> None:
        """Follow `tensor` from here on as the output of `origin`."""
        self.alive.append(tensor)  # an id is only unique among tensors that exist
        self.origins[id(tensor)] = origin

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and mark what it makes of a followed tensor."""
        result = func(*args, **(kwargs or {}))
        source = args[0] if args else None
        if not isinstance(source, Tensor) or id(source) not in self.origins:
            return result
        origin = self.origins[id(source)]
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, Tensor) and made.dim() > 0 and source.dim() > 0:
                self.mark(made, origin)
                self._note(getattr(func, "__name__", ""), source, made, origin)
        return result

    def _note(self, name: str, source: Tensor, made: Tensor, origin: nn.Module) -> None:
        whole, part = source.shape[-1], made.shape[-1]
        if name in _SPLITS and 0 < part < whole and whole % part == 0:
            self.lengths.setdefault(origin, part)


def head_lengths(model: nn.Module, example: Any) -> dict[nn.Module, int]:
    """Return the linear layers whose outputs are reshaped to a shorter last axis: its length."""
    splits = _Splits()

    def mark(module: nn.Module, _: Any, output: Any) -> None:
        splits.mark(output, module)

    hooks = [m.register_forward_hook(mark) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        with torch.no_grad(), splits:
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return splits.lengths


def attention(members: Sequence[Member], lengths: dict[nn.Module, int]) -> Iterator[Family]:
    """Yield the ways in which coupled linear layers may be attention heads.

    Recognised are separate query, key and value layers, and one layer for the three with either
    order of its output: (3, heads, length) or (heads, 3, length).
    """
    outs = [m for m in members if m.side == "out"]
    ins = [m for m in members if m.side == "in"]
    widths = {m.unit.numel() for m in ins}
    if len(outs) + len(ins) < len(members) or not outs or len(widths) != 1:
        return
    if not all(isinstance(m.module, nn.Linear) for m in members):
        return
    (width,) = widths
    seen = [lengths[m.module] for m in outs if m.module in lengths]
    fused = any(m.unit.numel() == 3 * width for m in outs)
    if not all(m.unit.numel() in (width, 3 * width) for m in outs):
        return
    lengths_tried = dict.fromkeys([*seen, *(n // 3 for n in seen if fused and n % 3 == 0)])
    for length in lengths_tried:
        if width % length == 0 and width > length:
            for interleaved in (False, True) if fused else (False,):
                yield from _fixes(_heads(members, width, length, interleaved), width)


def _heads(members: Sequence[Member], width: int, length: int, interleaved: bool) -> Family:
    """Return the family whose units are heads of `length` channels."""
    assigned = []
    for member in members:
        channel = torch.arange(member.unit.numel())
        fused = member.unit.numel() != width
        unit = channel // (3 * length) if fused and interleaved else channel % width // length
        assigned.append(dataclasses.replace(member, unit=unit))
    heads = width // length
    return Family(name=members[0].name, members=tuple(assigned), units=heads, size=length)


def _fixes(family: Family, width: int) -> Iterator[Family]:
    """Yield the family with each choice of attributes to update, the commonest first."""
    heads = family.units
    for counts, old in ((heads, width), (heads, 0), (0, width), (0, 0)):
        yield dataclasses.replace(family, counts=counts, width=old)


def torch_attention(model: nn.Module) -> list[Family]:
    """Return the heads of each nn.MultiheadAttention that PrunedAttention can stand in for."""
    return [
        _torch_heads(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        and type(module) in (nn.MultiheadAttention, PrunedAttention)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
        and module.num_heads > 1
    ]


def _torch_heads(name: str, module: nn.MultiheadAttention) -> Family:
    unit = torch.arange(module.num_heads * module.head_dim) // module.head_dim
    member = Member(name=name, module=module, side="both", cut=_cutter(module), unit=unit)
    return Family(name=name, members=(member,), units=module.num_heads, size=module.head_dim)


def _cutter(module: nn.MultiheadAttention) -> Callable[[list[int]], None]:
    """Return the cut of whole heads from `module`, which becomes a PrunedAttention."""

    def cut(channels: list[int]) -> None:
        width, gone = module.num_heads * module.head_dim, set(channels)
        kept = torch.tensor([i for i in range(width) if i not in gone])
        rows = torch.cat([kept, kept + width, kept + 2 * width])
        module.in_proj_weight = nn.Parameter(module.in_proj_weight.detach()[rows])
        if module.in_proj_bias is not None:
            module.in_proj_bias = nn.Parameter(module.in_proj_bias.detach()[rows])
        projection = module.out_proj
        projection.weight = nn.Parameter(projection.weight.detach()[:, kept])
        projection.in_features = len(kept)
        module.num_heads = len(kept) // module.head_dim
        module._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its fused path
        module.__class__ = PrunedAttention

    return cut
