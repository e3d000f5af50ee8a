"""Rounding that makes up for itself: each value's error is taken over by those not rounded yet."""

import torch
from torch import Tensor

from spaces.quantization.grid import nearest

BLOCK = 128
"""Columns whose errors are spread over the later ones together: one product in place of many."""
DAMPING = 0.01
"""Share of the mean input energy that is added to every column's."""


def compensated(
    matrix: Tensor, moments: Tensor, scale: Tensor, zero: Tensor, bits: int, group: int
) -> tuple[Tensor, Tensor]:
    """Return codes (rows, groups, group), uint8, and the columns beyond them, (rows, extra).

    `matrix` is (rows, columns): first the weights, then extra columns (a bias) that are not
    rounded but take errors over. `moments` is the mean outer product of what the columns
    multiply. Columns go from the largest input energy to the smallest; zeros stay zeros where
    the weight is pruned. Source: Frantar et al. 2023, GPTQ, sections 3 and 4.
    """
    rows, columns = matrix.shape
    weights = scale.expand(rows, -1, 1).shape[1] * group
    order = moments.diagonal()[:weights].argsort(descending=True)
    order = torch.cat([order, torch.arange(weights, columns, device=order.device)])
    # A row a column: the one in turn, and what its error is spread over, lie together in memory.
    rest = matrix[:, order].double().T.contiguous()
    factor = _factor(moments[order][:, order].double())
    codes = torch.zeros(rows, weights, dtype=torch.uint8, device=matrix.device)
    kept = (matrix[:, :weights] == 0).double().mean() > 0.01
    columns_by_place = order[:weights].tolist()
    for start in range(0, weights, BLOCK):
        end = min(start + BLOCK, weights)
        errors = rest.new_zeros(end - start, rows)
        for place in range(start, end):
            column = columns_by_place[place]
            own = (scale[:, column // group].double(), zero[:, column // group].double())
            values = rest[place][:, None]
            chosen = nearest(values, *own, bits)
            if kept and bits > 1:
                still = (matrix[:, column : column + 1] == 0).expand_as(chosen)
                chosen = torch.where(still, own[1].expand_as(chosen).to(torch.uint8), chosen)
            elif kept:
                chosen = _signs(values, matrix[:, column : column + 1])
            codes[:, column] = chosen.flatten()
            error = ((values - (chosen - own[1]) * own[0]) / factor[place, place]).flatten()
            errors[place - start] = error
            rest[place + 1 : end].addr_(factor[place, place + 1 : end], error, alpha=-1)
        rest[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes.reshape(rows, -1, group), rest[weights:].T.float()


def _signs(values: Tensor, before: Tensor) -> Tensor:
    """Return ternary codes: the sign, and zero where a zero was."""
    signs = torch.where(values > 0, 2, 0)
    return torch.where(before == 0, 1, signs).to(torch.uint8)


def _factor(moments: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of damped moments."""
    damped = moments.clone()
    energy = damped.diagonal().mean().clamp(min=1e-12)
    damped.diagonal().add_(DAMPING * energy)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
