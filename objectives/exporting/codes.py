"""Weights as integer codes: byte layout, search in exported graphs, remarks in manifests."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from objectives.exporting.lzma_files import compress
from objectives.runtime import Export
from spaces import Encoding
from spaces.modules import Codes, pack
from spaces.quantization import Encoded, encoded

CODED = frozenset(
    {"weight_bits", "granularity", "symmetric", "mean_bits", "widths", "cluster_bits"}
)
"""Fields of an encoding that determine the codes of weights."""


def coded_weights(export: Export) -> Encoded:
    """Return the candidate with its codes; if it has none, its weights are rounded to nearest."""
    if export.codes:
        return Encoded(model=export.model, codes=dict(export.codes))
    return encoded(export.model, None, export.encoding)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The bytes that store a weight's codes."""

    parts: tuple[Tensor, ...]
    """One uint8 tensor per bit plane, as `spaces.modules.pack` returns them."""
    bits: int
    """Stored bits per code: those of the codes, or more if that compresses better."""


def layout(codes: Codes, coder: str) -> Layout:
    """Pack codes into bytes, in the width that is smallest once `coder` has compressed them.

    Bit planes hide the frequencies of codes from a coder of bytes; half a byte or a whole byte per
    code shows them. How uneven the frequencies are decides which width is smallest. With the coder
    "none" the codes keep their own width.
    """
    widths = {codes.bits} if coder == "none" else {codes.bits, 8, *([4] if codes.bits < 4 else [])}
    layouts = [Layout(parts=tuple(pack(codes.codes, w)), bits=w) for w in sorted(widths)]
    if len(layouts) == 1:
        return layouts[0]
    return min(layouts, key=_compressed_bytes)


def _compressed_bytes(candidate: Layout) -> int:
    return sum(len(compress(part.numpy().tobytes())) for part in candidate.parts)


def zero_points(codes: Codes) -> Tensor:
    """Return zero points as uint8 if all are whole numbers, otherwise in float32."""
    integers = codes.zero.to(torch.uint8)
    return integers if bool((integers == codes.zero).all()) else codes.zero


def match_rows(rows: Tensor, codes: Codes) -> Codes | None:
    """Return the codes of a matrix whose rows are multiples of those of `codes`; None if not.

    Exporters fold the scales of a batch normalisation into the rows of the preceding weight.
    """
    if tuple(rows.shape) != (codes.rows, codes.columns):
        return None
    actual = rows.double()
    decoded = codes.floats().reshape(codes.rows, codes.columns).double()
    energy = decoded.square().sum(1)
    factor = torch.where(energy > 0, (decoded * actual).sum(1) / energy.clamp(min=1e-300), 1.0)
    error = (actual - factor[:, None] * decoded).abs().amax(1)
    if bool((error > 1e-5 * actual.abs().amax(1)).any()):
        return None
    if bool(((factor - 1).abs() < 1e-6).all()):
        return codes
    return codes.rescaled(factor)


_GATES = {1: (0,), 3: (1, 0, 2), 4: (0, 3, 1, 2)}
"""Torch's block of rows at each place of an ONNX weight, by number of gates: RNN, GRU, LSTM."""


def match_recurrent(values: Tensor, known: Iterable[Codes]) -> list[Codes] | None:
    """Return the codes of each direction of a recurrent ONNX weight; None if one has none.

    `values` is (directions, gates x hidden, inputs), with the gates in another order than torch's;
    `known` are the codes of torch's weights.
    """
    known, matches = list(known), []
    for rows in values:
        reordered = (_reordered(codes, gates) for codes in known for gates in _GATES.values())
        match = next((c for c in reordered if c and match_rows(rows, c) is c), None)
        if match is None:
            return None
        matches.append(match)
    return matches


def _reordered(codes: Codes, gates: tuple[int, ...]) -> Codes | None:
    """Return the codes with their blocks of rows reordered; None if rows do not form blocks."""
    size, rest = divmod(codes.rows, len(gates))
    if rest or len(codes.shape) != 2:
        return None
    index = torch.cat([torch.arange(gate * size, (gate + 1) * size) for gate in gates])
    scale, zero = (t if len(t) == 1 else t[index] for t in (codes.scale, codes.zero))
    return dataclasses.replace(codes, codes=codes.codes[index], scale=scale, zero=zero)


def refuses_codes(kinds: frozenset[str]) -> str | None:
    """Reason why a model has no weights that codes could store; None if it has some."""
    known = ("Linear", "Conv", "Embedding", "MultiheadAttention", "LSTM", "GRU", "RNN")
    if any(name in kind for kind in kinds for name in known):
        return None
    return "the model has no convolution, linear or recurrent layers to quantize"


def describe_weights(encoding: Encoding) -> str:
    """Return a phrase for the weights of an encoding, such as "4-bit weights"."""
    if encoding.cluster_bits < 32:
        return f"{encoding.cluster_bits}-bit codebooks of weights"
    if encoding.mean_bits < 32:
        return f"weights of {encoding.mean_bits:g} bits on average"
    return f"{encoding.weight_bits}-bit weights"


SILENT = 0.05
"""Share of the weights that may stay in floating point without a remark."""
FLOATING = "{share:.0%} of the weights stay in floating point, their layers have no codes"
UNPACKED = (
    "weights of {count} layers are unpacked when the artifact is loaded: they take few bits to "
    "ship, their latency is that of unpacked ones"
)


def remarks(
    model: nn.Module, coded: int, *, unpacked: int, sentence: str | None = None
) -> dict[str, Any]:
    """Return a manifest's notes on weights without codes and on codes without kernels.

    `coded` is the number of weights in codes, `unpacked` the number of layers whose codes are
    unpacked at load; `sentence` replaces the usual sentence on those. A small share of weights
    without codes, such as biases and normalisations, gets no remark.
    """
    total = sum(p.numel() for p in model.parameters())
    share = 1 - coded / max(total, 1)
    usual = UNPACKED.format(count=unpacked) if unpacked else None
    floating = FLOATING.format(share=share) if share > SILENT else None
    sentences = [s for s in (sentence or usual, floating) if s]
    notes: dict[str, Any] = {"unpacked_layers": unpacked} if unpacked else {}
    return notes | ({"remark": "; ".join(sentences)} if sentences else {})
