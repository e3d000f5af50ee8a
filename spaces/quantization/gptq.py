"""GPTQ: round a matrix column by column; columns not yet rounded compensate the errors."""

import torch
from torch import Tensor

from spaces.quantization.grid import nearest

BLOCK = 128
"""Columns whose errors are spread over the later ones together, by one product."""
DAMPING = 0.01
"""Share of the mean input energy that is added to the energy of every column."""


def compensated(
    matrix: Tensor, moments: Tensor, scale: Tensor, zero: Tensor, bits: int, group: int
) -> tuple[Tensor, Tensor]:
    """Return codes (rows, groups, group), uint8, and the columns beyond them, (rows, extra).

    `matrix` is (rows, columns): first the weights, then extra columns (a bias) that are not
    rounded but absorb errors. `moments` is the mean outer product of the inputs that the columns
    multiply. Columns are rounded from the largest input energy to the smallest; zeros stay zero
    if the weight is pruned. Source: Frantar et al. 2023, GPTQ, sections 3 and 4.
    """
    rows, columns = matrix.shape
    weights = scale.expand(rows, -1, 1).shape[1] * group
    order = moments.diagonal()[:weights].argsort(descending=True)
    order = torch.cat([order, torch.arange(weights, columns, device=order.device)])
    # transposed, so that a column, and the columns that absorb its error, are contiguous in memory
    remaining = matrix[:, order].double().T.contiguous()
    factor = _factor(moments[order][:, order].double())
    codes = torch.zeros(rows, weights, dtype=torch.uint8, device=matrix.device)
    sparse = (matrix[:, :weights] == 0).double().mean() > 0.01
    columns_by_place = order[:weights].tolist()
    for start in range(0, weights, BLOCK):
        end = min(start + BLOCK, weights)
        errors = remaining.new_zeros(end - start, rows)
        for place in range(start, end):
            column = columns_by_place[place]
            grid = (scale[:, column // group].double(), zero[:, column // group].double())
            values = remaining[place][:, None]
            chosen = nearest(values, *grid, bits)
            if sparse and bits > 1:
                is_zero = (matrix[:, column : column + 1] == 0).expand_as(chosen)
                chosen = torch.where(is_zero, grid[1].expand_as(chosen).to(torch.uint8), chosen)
            elif sparse:
                chosen = _signs(values, matrix[:, column : column + 1])
            codes[:, column] = chosen.flatten()
            error = ((values - (chosen - grid[1]) * grid[0]) / factor[place, place]).flatten()
            errors[place - start] = error
            remaining[place + 1 : end].addr_(factor[place, place + 1 : end], error, alpha=-1)
        remaining[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return codes.reshape(rows, -1, group), remaining[weights:].T.float()


def _signs(values: Tensor, before: Tensor) -> Tensor:
    """Return ternary codes: the sign of `values`, and zero where `before` is zero."""
    signs = torch.where(values > 0, 2, 0)
    return torch.where(before == 0, 1, signs).to(torch.uint8)


def _factor(moments: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of the damped moments."""
    damped = moments.clone()
    energy = damped.diagonal().mean().clamp(min=1e-12)
    damped.diagonal().add_(DAMPING * energy)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
