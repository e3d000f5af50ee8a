"""Multi-head attention with removed heads; torch's module requires embed_dim / head_dim heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PrunedAttention(nn.MultiheadAttention):
    """Replacement of nn.MultiheadAttention with fewer heads; input and output widths are unchanged.

    Never constructed: the class of an existing module is set to it, with `in_proj_weight` of
    shape (3 * num_heads * head_dim, embed_dim) and `out_proj` of in_features num_heads * head_dim.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention output and, if `need_weights`, the weights, as the base class does.

        Raises ValueError for an `attn_mask` that differs between heads.
        """
        single = query.dim() == 2
        if single:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._project(query, key, value)
        mask = _mask(q, k, attn_mask, key_padding_mask, is_causal)
        context, weights = self._attend(q, k, v, mask, need_weights)
        output = self.out_proj(context.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        """Return query, key and value as (batch, heads, tokens, head_dim)."""
        weights = self.in_proj_weight.chunk(3)
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [
            F.linear(x, w, b).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        ]

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the heads' outputs and, if needed, their weights (batch, heads, q, k)."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, dropout, self.training)
        return weights @ v, weights


def _mask(
    q: Tensor, k: Tensor, attn_mask: Tensor | None, padding: Tensor | None, causal: bool
) -> Tensor | None:
    """Combine all masks into a term of the scores, broadcastable to (batch, heads, q, k)."""
    if attn_mask is None and causal:
        shape = (q.shape[-2], k.shape[-2])
        attn_mask = torch.ones(shape, dtype=torch.bool, device=q.device).triu(1)
    if attn_mask is not None and attn_mask.dim() != 2:
        raise ValueError("a mask of its own for each head cannot be applied once heads are removed")
    terms = [] if attn_mask is None else [_additive(attn_mask, q)]
    if padding is not None:
        terms.append(_additive(padding, q)[:, None, None, :])
    return sum(terms[1:], terms[0]) if terms else None


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Convert `mask` into a term of the scores; True in a boolean mask means "do not attend"."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
