"""How tokens relate to each other in attention layers, compared between student and teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def projections(model: nn.Module, attentions: Sequence[str]) -> list[str]:
    """Return the linear layers of attention layers by name, their outputs' projection left out.

    That is the last one of a layer; the others make queries, keys and values, together or apart.
    """
    found: list[str] = []
    for name in attentions:
        layer = model.get_submodule(name)
        own = [n for n, module in layer.named_modules() if n and isinstance(module, nn.Linear)]
        found += [f"{name}.{n}" for n in own[:-1]]
    return found


def comparable(mine: Tensor, taught: Tensor) -> bool:
    """Whether both are (batch, tokens, width) of the same tokens, more than one."""
    both = mine.dim() == taught.dim() == 3 and mine.shape[:2] == taught.shape[:2]
    return both and mine.shape[1] > 1


def distance(mine: Tensor, taught: Tensor) -> Tensor:
    """Return the mean divergence of the student's relations from its teacher's, a scalar.

    A token's relation to all others is the softmax of its scaled products with them, whatever the
    width and the number of heads: both may have been pruned. Source: Wang et al. 2021, MiniLMv2,
    section 3.1, with one relation head.
    """
    return (
        F.kl_div(_relations(mine), _relations(taught), reduction="none", log_target=True)
        .sum(-1)
        .mean()
    )


def _relations(features: Tensor) -> Tensor:
    """Return log probabilities, (batch, tokens, tokens)."""
    values = features.float()
    scores = values @ values.transpose(1, 2) * values.shape[-1] ** -0.5
    return torch.log_softmax(scores, -1)
