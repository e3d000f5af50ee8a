"""Codebooks: cluster all values of a weight by one-dimensional k-means."""

import torch
from torch import Tensor

from spaces.modules import Codes
from spaces.quantization.grid import pruned

ROUNDS = 50
"""Largest number of iterations of Lloyd's algorithm."""


def clustered(weight: Tensor, bits: int) -> Codes:
    """Return a weight's codes into a codebook of up to 2 ** bits centres.

    Centres start evenly spaced between the smallest and the largest value, which preserves the few
    large values (Han et al. 2016, section 3.2), and move to the mean of the values nearest to
    them. If the weight is pruned, one centre is zero and stands for the exact zeros only.
    """
    values = weight.detach().double().flatten()
    sparse = pruned(weight.detach())
    used = values[values != 0] if sparse else values
    centres = _centres(used, 2**bits - int(sparse)).float()
    codes = torch.bucketize(values.float(), _between(centres))
    if sparse:
        codes = torch.where(values == 0, 0, codes + 1)
        centres = torch.cat([centres.new_zeros(1), centres])
    return _booked(weight, codes, centres, bits)


def recovered_book(weight: Tensor, bits: int) -> Codes | None:
    """Return the codes of a weight with at most 2 ** bits distinct values, None if it has more."""
    centres, codes = torch.unique(weight.detach().float(), return_inverse=True)
    return _booked(weight, codes, centres, bits) if len(centres) <= 2**bits else None


def _booked(weight: Tensor, codes: Tensor, centres: Tensor, bits: int) -> Codes:
    scale = centres.new_ones(1, 1, 1)
    return Codes(
        codes=codes.to(torch.uint8).reshape(weight.shape[0], 1, -1),
        bits=bits,
        shape=tuple(weight.shape),
        scale=scale,
        zero=torch.zeros_like(scale),
        book=centres,
    )


def _centres(values: Tensor, count: int) -> Tensor:
    """Return up to `count` centres in ascending order, float64."""
    distinct: Tensor = torch.unique(values)
    if len(distinct) <= count:
        return distinct
    # In one dimension, an iteration of Lloyd's algorithm is 2 ** bits searches in sorted values, on
    # any device; scikit-learn's KMeans computes all distances to all centres, on the CPU.
    ordered, sums = values.sort().values, values.sort().values.cumsum(0)
    sums = torch.cat([sums.new_zeros(1), sums])
    start = torch.linspace(float(ordered[0]), float(ordered[-1]), count, dtype=ordered.dtype)
    centres = start.to(ordered.device)
    for _ in range(ROUNDS):
        ends = torch.searchsorted(ordered, _between(centres))
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([len(ordered)])])
        sizes = ends.diff()
        means = (sums[ends[1:]] - sums[ends[:-1]]) / sizes.clamp(min=1)
        updated = torch.where(sizes > 0, means, centres).sort().values
        if torch.equal(updated, centres):
            break
        centres = updated
    return centres


def _between(centres: Tensor) -> Tensor:
    return (centres[1:] + centres[:-1]) / 2
