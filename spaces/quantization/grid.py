"""Grids of few values: fit one to a weight, round to it, and recover it from rounded values."""

import torch
from torch import Tensor

from spaces.modules import Codes, compact

GROUP = 64
"""Largest number of values that share a scale, with scales per group."""
SMALLEST_GROUP = 16
SHRINK = tuple(1 - 0.025 * i for i in range(29))
"""Candidate ends of a grid, as shares of the largest value: few bits gain from clipped outliers."""
NEAR = 1e-3
"""Largest distance, in steps, of a value that lies on a grid; float32 rounds to 3e-5 steps."""
ZEROS = 0.01
"""Share of exact zeros above which a weight counts as pruned."""


def group_of(columns: int, granularity: str, *, linear: bool) -> int:
    """Return the number of values that share a scale, a divisor of a row's `columns`.

    "automatic" is per group for linear layers and embeddings, per channel for convolutions.
    """
    if granularity == "channel" or (granularity == "automatic" and not linear):
        return columns
    group = GROUP
    while group >= SMALLEST_GROUP:
        if columns % group == 0:
            return group
        group //= 2
    return columns


def fitted(
    weight: Tensor, bits: int, *, symmetric: bool, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return scales and zero points, each (rows, groups, 1), for (rows, groups, group) values.

    From 8 bits on, the grid spans the smallest to the largest value; below, it ends where the
    squared error, weighted by `importance` (1, groups, group), is smallest. Zero is always on the
    grid, except for 1 bit: its two values are the mean magnitude and its negative (Rastegari et
    al. 2016, section 3.1), with zero as a third value if the weight is pruned.
    """
    if bits == 1:
        return _binary(weight)
    low = weight.amin(-1, keepdim=True).clamp(max=0)
    high = weight.amax(-1, keepdim=True).clamp(min=0)
    best = _ends(low, high, bits, symmetric)
    if bits >= 8:
        return best
    error = _error(weight, *best, bits, importance)
    for share in SHRINK[1:]:
        scale, zero = _ends(low * share, high * share, bits, symmetric)
        new_error = _error(weight, scale, zero, bits, importance)
        better = new_error < error
        error = torch.where(better, new_error, error)
        best = (torch.where(better, scale, best[0]), torch.where(better, zero, best[1]))
    return best


def _binary(weight: Tensor) -> tuple[Tensor, Tensor]:
    used = (weight != 0).sum(-1, keepdim=True).clamp(min=1)
    mean = (weight.abs().sum(-1, keepdim=True) / used).clamp(min=_TINY)
    if pruned(weight):
        return mean, torch.ones_like(mean)
    return 2 * mean, torch.full_like(mean, 0.5)


_TINY = 1e-12


def _ends(low: Tensor, high: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    top = 2**bits - 1
    if symmetric:
        largest = torch.maximum(-low, high)
        scale = (largest / (top // 2)).clamp(min=_TINY)
        return scale, torch.full_like(scale, top // 2 + 1)
    scale = ((high - low) / top).clamp(min=_TINY)
    return scale, (-low / scale).round().clamp(0, top)


def _error(
    weight: Tensor, scale: Tensor, zero: Tensor, bits: int, importance: Tensor | None
) -> Tensor:
    error = (rounded(weight, scale, zero, bits) - zero) * scale - weight
    squares = error.square() if importance is None else error.square() * importance
    return squares.sum(-1, keepdim=True)


def pruned(weight: Tensor) -> bool:
    """Return True if a weight has so many exact zeros that it counts as pruned."""
    return float((weight == 0).float().mean()) > ZEROS


def width_of(weight: Tensor, bits: int) -> int:
    """Return the bits of a weight's codes: a binary weight with zeros is ternary, with 2 bits."""
    return 2 if bits == 1 and pruned(weight) else bits


def rounded(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Return the nearest codes as floats; only `nearest` knows the zeros of binary weights."""
    return (weight / scale + zero).round().clamp(0, 2**bits - 1)


def nearest(weight: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Return the nearest codes of (rows, groups, group) values, uint8.

    `bits` is the requested width: 1 also for ternary codes.
    """
    if bits == 1:
        signs = weight.sign() + 1 if bool((zero == 1).all()) else (weight > 0).float()
        return signs.to(torch.uint8)
    return rounded(weight, scale, zero, bits).to(torch.uint8)


def recovered(weight: Tensor, bits: int, group: int) -> Codes | None:
    """Return the codes of a weight that lies on grids of `bits` bits, None if a group does not.

    On a grid, every value is a whole multiple of its group's step: the smallest magnitude divided
    by the smallest whole number for which this holds. On a grid of 1 bit, all values of a group
    have one magnitude. Only the values are needed, so any weight trained on a grid is recognised.
    """
    values = weight.detach().double().reshape(weight.shape[0], -1, group)
    magnitude = values.abs()
    if bits == 1:
        first = magnitude[..., :1]
        if not bool(((magnitude - first).abs() <= 1e-6 * first).all() and (first > 0).all()):
            return None
        return _stored(weight, values > 0, 1, 2 * first, torch.full_like(first, 0.5))
    if _too_many(values, bits):
        return None
    step = _steps(values, magnitude, 2**bits - 1)
    if step is None:
        return None
    multiples = (values / step).round()
    zero = -multiples.amin(-1, keepdim=True).clamp(max=0)
    half = torch.full_like(zero, 2 ** (bits - 1))
    inside = (multiples + half).amin() >= 0 and (multiples + half).amax() < 2**bits
    zero = half if inside else zero
    return _stored(weight, multiples + zero, bits, step, zero)


def _stored(weight: Tensor, codes: Tensor, bits: int, scale: Tensor, zero: Tensor) -> Codes:
    return compact(
        Codes(
            codes=codes.to(torch.uint8),
            bits=bits,
            shape=tuple(weight.shape),
            scale=scale.float(),
            zero=zero.float(),
        )
    )


def _too_many(values: Tensor, bits: int) -> bool:
    """Return True if a few groups have more distinct values than a grid: a cheap first test."""
    few = values.flatten(0, 1)[:8].sort(-1).values
    distinct = 1 + (few.diff(dim=-1) != 0).sum(-1)
    return bool((distinct > 2**bits).any())


def _steps(values: Tensor, magnitude: Tensor, top: int) -> Tensor | None:
    """Return the steps, (rows, groups, 1); None if a group has none."""
    flat, sizes = values.flatten(0, 1), magnitude.flatten(0, 1)
    least = torch.where(sizes > 0, sizes, torch.inf).amin(-1, keepdim=True)
    step = torch.where(least.isinf(), 1.0, least)
    remaining = (~least.isinf()).flatten().nonzero().flatten()
    for parts in range(1, top + 1):
        if not len(remaining):
            break
        multiples = flat[remaining] / (least[remaining] / parts)
        whole = multiples.round()
        span = whole.amax(-1).clamp(min=0) - whole.amin(-1).clamp(max=0)
        if bool((span > top).any()):
            return None
        fits = (multiples - whole).abs().amax(-1) <= NEAR
        step[remaining[fits]] = _refined(flat[remaining[fits]], whole[fits])
        remaining = remaining[~fits]
    return None if len(remaining) else step.reshape(*values.shape[:2], 1)


def _refined(values: Tensor, multiples: Tensor) -> Tensor:
    """Return the step by least squares, which averages out the rounding of float32."""
    return (values * multiples).sum(-1, keepdim=True) / multiples.square().sum(-1, keepdim=True)
