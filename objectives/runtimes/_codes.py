"""What runtimes do with weights in codes: where to get them, how to lay them out as bytes."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from objectives._coding import coded
from objectives.runtimes._runtime import Export
from spaces import Encoding
from spaces.quantize._codes import Codes, pack
from spaces.quantize._encode import Encoded, encoded


def coded_weights(export: Export) -> Encoded:
    """Return the candidate with its codes; rounded to the nearest where none were given."""
    if export.codes:
        return Encoded(model=export.model, codes=dict(export.codes))
    return encoded(export.model, None, export.encoding)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The bytes that stand for a weight's codes."""

    parts: tuple[Tensor, ...]
    """One uint8 tensor for each plane of bits (spaces.quantize._codes.pack)."""
    bits: int
    """Bits that a code takes there: its own, or more where the coder gains from it."""


def layout(codes: Codes, coder: str) -> Layout:
    """Return codes packed, or where there is a coder as it makes least of them.

    Planes hide from a coder of bytes how often each code occurs: half a byte or a whole one for
    each shows it. What is smallest depends on how uneven the frequencies are.
    """
    widths = {codes.bits} if coder == "none" else {codes.bits, 8, *([4] if codes.bits < 4 else [])}
    made = [Layout(parts=tuple(pack(codes.codes, width)), bits=width) for width in sorted(widths)]
    if len(made) == 1:
        return made[0]
    return min(made, key=lambda m: sum(len(coded(p.numpy().tobytes())) for p in m.parts))


def zeros(codes: Codes) -> Tensor:
    """Return zero points as bytes where they are whole numbers."""
    whole = codes.zero.to(torch.uint8)
    return whole if bool((whole == codes.zero).all()) else codes.zero


def rows_matched(rows: Tensor, codes: Codes) -> Codes | None:
    """Return the codes of a matrix whose rows are multiples of those of `codes`, None if not.

    Exporters fold the scales of a batch normalisation into the rows of the weight before it.
    """
    if tuple(rows.shape) != (codes.rows, codes.columns):
        return None
    own = codes.floats().reshape(codes.rows, codes.columns).double()
    given = rows.double()
    energy = own.square().sum(1)
    factor = torch.where(energy > 0, (own * given).sum(1) / energy.clamp(min=1e-300), 1.0)
    missed = (given - factor[:, None] * own).abs().amax(1)
    if bool((missed > 1e-5 * given.abs().amax(1)).any()):
        return None
    if bool(((factor - 1).abs() < 1e-6).all()):
        return codes
    return codes.rescaled(factor)


def refuses_codes(kinds: frozenset[str]) -> str | None:
    """Return why a model has no weights that codes could stand for."""
    known = ("Linear", "Conv1d", "Conv2d", "Conv3d", "Embedding", "MultiheadAttention")
    if any(name in kind for kind in kinds for name in known):
        return None
    return "the model has no convolution or linear layers to quantize"


def spelled(encoding: Encoding) -> str:
    """Return how the weights of an encoding are called."""
    if encoding.cluster_bits < 32:
        return f"{encoding.cluster_bits}-bit codebooks of weights"
    if encoding.mean_bits < 32:
        return f"weights of {encoding.mean_bits:g} bits on average"
    return f"{encoding.weight_bits}-bit weights"


def unpacked(count: int) -> dict[str, Any]:
    """Return what the manifest and the record say where there is no kernel for codes."""
    return {
        "unpacked_layers": count,
        "remark": (
            f"weights of {count} layers are unpacked when the artifact is loaded: they take few "
            "bits to ship, their latency is that of unpacked ones"
        ),
    }
