"""What runtimes do with weights in codes: where to get them, how to lay them out as bytes."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from objectives.exporting.lzma_files import coded
from objectives.runtime import Export
from spaces import Encoding
from spaces.modules import Codes, pack
from spaces.quantization import Encoded, encoded

CODED = frozenset(
    {"weight_bits", "granularity", "symmetric", "mean_bits", "widths", "cluster_bits"}
)
"""Fields of an encoding from which the codes of weights follow."""


def coded_weights(export: Export) -> Encoded:
    """Return the candidate with its codes; rounded to the nearest where none were given."""
    if export.codes:
        return Encoded(model=export.model, codes=dict(export.codes))
    return encoded(export.model, None, export.encoding)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The bytes that stand for a weight's codes."""

    parts: tuple[Tensor, ...]
    """One uint8 tensor for each plane of bits (spaces.modules.pack)."""
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


_GATES = {1: (0,), 3: (1, 0, 2), 4: (0, 3, 1, 2)}
"""Which block of a torch weight ONNX holds at each place, by their number: RNN, GRU and LSTM."""


def sequence_matched(values: Tensor, known: Iterable[Codes]) -> list[Codes] | None:
    """Return the codes of a recurrent weight, (directions, gates x hidden, inputs), one for each.

    ONNX has the gates in another order than torch. None where a direction has no codes.
    """
    known, found = list(known), []
    for rows in values:
        ordered = (_ordered(own, gates) for own in known for gates in _GATES.values())
        own = next((c for c in ordered if c and rows_matched(rows, c) is c), None)
        if own is None:
            return None
        found.append(own)
    return found


def _ordered(codes: Codes, gates: tuple[int, ...]) -> Codes | None:
    """Return the codes with their blocks of rows in another order; None if rows are no blocks."""
    size, rest = divmod(codes.rows, len(gates))
    if rest or len(codes.shape) != 2:
        return None
    index = torch.cat([torch.arange(gate * size, (gate + 1) * size) for gate in gates])
    scale, zero = (t if len(t) == 1 else t[index] for t in (codes.scale, codes.zero))
    return dataclasses.replace(codes, codes=codes.codes[index], scale=scale, zero=zero)


def refuses_codes(kinds: frozenset[str]) -> str | None:
    """Return why a model has no weights that codes could stand for."""
    known = ("Linear", "Conv", "Embedding", "MultiheadAttention", "LSTM", "GRU", "RNN")
    if any(name in kind for kind in kinds for name in known):
        return None
    return "the model has no convolution, linear or recurrent layers to quantize"


def spelled(encoding: Encoding) -> str:
    """Return how the weights of an encoding are called."""
    if encoding.cluster_bits < 32:
        return f"{encoding.cluster_bits}-bit codebooks of weights"
    if encoding.mean_bits < 32:
        return f"weights of {encoding.mean_bits:g} bits on average"
    return f"{encoding.weight_bits}-bit weights"


SILENT = 0.05
"""Share of the weights up to which it is not said that they stay in floating point."""
FLOATING = "{share:.0%} of the weights stay in floating point, their layers have no codes"
UNPACKED = (
    "weights of {count} layers are unpacked when the artifact is loaded: they take few bits to "
    "ship, their latency is that of unpacked ones"
)


def remarks(
    model: nn.Module, coded: int, *, unpacked: int, said: str | None = None
) -> dict[str, Any]:
    """Return what a manifest says of weights without codes, or of codes without kernels.

    `coded` are the weights in codes, `unpacked` the layers whose codes are unpacked when they are
    loaded; `said` takes the place of the usual sentence on those. Few weights without codes, such
    as biases and normalisations, are not worth a word.
    """
    total = sum(p.numel() for p in model.parameters())
    share = 1 - coded / max(total, 1)
    usual = UNPACKED.format(count=unpacked) if unpacked else None
    floating = FLOATING.format(share=share) if share > SILENT else None
    sentences = [sentence for sentence in (said or usual, floating) if sentence]
    notes: dict[str, Any] = {"unpacked_layers": unpacked} if unpacked else {}
    return notes | ({"remark": "; ".join(sentences)} if sentences else {})
