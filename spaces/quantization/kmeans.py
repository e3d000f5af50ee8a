"""One codebook for all values of a weight, by k-means in one dimension."""

import torch
from torch import Tensor

from spaces.modules import Codes
from spaces.quantization.grid import pruned

ROUNDS = 50


def clustered(weight: Tensor, bits: int) -> Codes:
    """Return a weight's codes into a book of up to 2 ** bits centres.

    Centres start evenly between the smallest and the largest value, which keeps the few large
    ones (Han et al. 2016, section 3.2), and move to the mean of what is nearest to them. Where
    the weight is pruned one centre is zero and stands for the zeros alone.
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
    """Return the codes of a weight that has at most 2 ** bits distinct values, None if more."""
    centres, codes = torch.unique(weight.detach().float(), return_inverse=True)
    return _booked(weight, codes, centres, bits) if len(centres) <= 2**bits else None


def _booked(weight: Tensor, codes: Tensor, centres: Tensor, bits: int) -> Codes:
    one = centres.new_ones(1, 1, 1)
    return Codes(
        codes=codes.to(torch.uint8).reshape(weight.shape[0], 1, -1),
        bits=bits,
        shape=tuple(weight.shape),
        scale=one,
        zero=torch.zeros_like(one),
        book=centres,
    )


def _centres(values: Tensor, count: int) -> Tensor:
    """Return up to `count` centres in ascending order, float64."""
    distinct: Tensor = torch.unique(values)
    if len(distinct) <= count:
        return distinct
    # In one dimension a round of Lloyd's algorithm is 2 ** bits searches in sorted values, on any
    # device; scikit-learn's KMeans computes every value's distance to every centre, on the CPU.
    ordered, sums = values.sort().values, values.sort().values.cumsum(0)
    sums = torch.cat([sums.new_zeros(1), sums])
    start = torch.linspace(float(ordered[0]), float(ordered[-1]), count, dtype=ordered.dtype)
    centres = start.to(ordered.device)
    for _ in range(ROUNDS):
        ends = torch.searchsorted(ordered, _between(centres))
        ends = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([len(ordered)])])
        sizes = ends.diff()
        means = (sums[ends[1:]] - sums[ends[:-1]]) / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centres).sort().values
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _between(centres: Tensor) -> Tensor:
    return (centres[1:] + centres[:-1]) / 2
