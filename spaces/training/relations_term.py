"""Relations of tokens in attention layers, and their divergence from the teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def projections(model: nn.Module, attentions: Sequence[str]) -> list[str]:
    """Return the names of the linear layers in attention layers, without output projections.

    The output projection is the last linear layer of an attention layer; the others compute
    queries, keys and values, jointly or separately.
    """
    names: list[str] = []
    for name in attentions:
        layer = model.get_submodule(name)
        linear = [n for n, module in layer.named_modules() if n and isinstance(module, nn.Linear)]
        names += [f"{name}.{n}" for n in linear[:-1]]
    return names


def comparable(student: Tensor, teacher: Tensor) -> bool:
    """Return True if both are (batch, tokens, width) of the same tokens, more than one."""
    both = student.dim() == teacher.dim() == 3 and student.shape[:2] == teacher.shape[:2]
    return both and student.shape[1] > 1


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean divergence of the student's relations from its teacher's, a scalar.

    A token's relation to all others is the softmax of its scaled products with them. It does not
    depend on the width and the number of heads, which pruning may have changed. Source: Wang et
    al. 2021, MiniLMv2, section 3.1, with one relation head.
    """
    return (
        F.kl_div(_relations(student), _relations(teacher), reduction="none", log_target=True)
        .sum(-1)
        .mean()
    )


def _relations(features: Tensor) -> Tensor:
    """Return the log probabilities of the relations, (batch, tokens, tokens)."""
    values = features.float()
    scores = values @ values.transpose(1, 2) * values.shape[-1] ** -0.5
    return torch.log_softmax(scores, -1)
