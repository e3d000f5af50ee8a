"""Heads of nn.MultiheadAttention as removable units."""

from collections.abc import Callable

import torch
from torch import nn

from spaces.modules.pruned_attention import PrunedAttention
from spaces.modules.structure.families import Family, Member


def torch_attention(model: nn.Module) -> list[Family]:
    """Return the heads of each nn.MultiheadAttention that PrunedAttention can replace."""
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
    """Return a function that cuts whole heads from `module`, which becomes a PrunedAttention."""

    def cut(channels: list[int]) -> None:
        width, removed = module.num_heads * module.head_dim, set(channels)
        remaining = torch.tensor([i for i in range(width) if i not in removed])
        rows = torch.cat([remaining, remaining + width, remaining + 2 * width])
        module.in_proj_weight = nn.Parameter(module.in_proj_weight.detach()[rows])
        if module.in_proj_bias is not None:
            module.in_proj_bias = nn.Parameter(module.in_proj_bias.detach()[rows])
        projection = module.out_proj
        projection.weight = nn.Parameter(projection.weight.detach()[:, remaining])
        projection.in_features = len(remaining)
        module.num_heads = len(remaining) // module.head_dim
        # disables the fused path of nn.TransformerEncoderLayer; no public attribute does
        module._qkv_same_embed_dim = False
        module.__class__ = PrunedAttention

    return cut
