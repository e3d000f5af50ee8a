"""Integer codes of a weight with scales or a codebook, and their packing into bytes."""

import dataclasses
import math

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """A weight as integer codes: (code - zero) x scale, or book[code] x scale with a codebook.

    Rows are dimension 0 of the weight. The values of a row are split into groups of equal size,
    each with its own scale and zero point; a dimension of size 1 applies to all rows or groups.
    """

    codes: Tensor
    """(rows, groups, group) uint8, each below 2 ** bits."""
    bits: int
    shape: tuple[int, ...]
    """Shape of the weight."""
    scale: Tensor
    """(rows or 1, groups or 1, 1) float32."""
    zero: Tensor
    """(rows or 1, groups or 1, 1) float32: the code of the value 0; 0.5 for binary weights."""
    book: Tensor | None = None
    """Codebook of up to 2 ** bits values, float32; with it, `zero` is not used."""

    def floats(self) -> Tensor:
        """Return the weight that the codes represent, float32."""
        if self.book is not None:
            values = self.book[self.codes.long()] * self.scale
        else:
            values = (self.codes.float() - self.zero) * self.scale
        return values.reshape(self.shape)

    def rescaled(self, factor: Tensor) -> "Codes":
        """Return the codes of the weight with its rows multiplied by `factor`, (rows,)."""
        return dataclasses.replace(self, scale=self.scale * factor.float().reshape(-1, 1, 1))

    def to(self, device: torch.device | str) -> "Codes":
        """Return the same codes on `device`."""
        tensors = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **tensors)  # type: ignore[arg-type]

    @property
    def rows(self) -> int:
        """Size of dimension 0 of the weight."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Values of one row."""
        return math.prod(self.shape[1:])


def compact(codes: Codes) -> Codes:
    """Return the same codes, storing scales and zero points once if all are equal."""
    return dataclasses.replace(codes, scale=_once(codes.scale), zero=_once(codes.zero))


def _once(values: Tensor) -> Tensor:
    first = values[:1, :1]
    return first if bool((values == first).all()) else values


def planes(bits: int) -> tuple[int, ...]:
    """Split `bits` into widths that divide a byte, the widest first: 3 becomes (2, 1).

    Raises ValueError unless `bits` is from 1 to 8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, got {bits}")
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def pack(codes: Tensor, bits: int) -> list[Tensor]:
    """Pack codes into one tensor of bytes for each of `planes(bits)`; the first has the low bits.

    A byte holds consecutive codes, the first in its lowest bits; the last byte is padded with
    zeros. `codes` are uint8 of any shape, read in row-major order.
    """
    remaining, packed = codes.flatten().contiguous(), []
    for width in planes(bits):
        per = 8 // width
        part = remaining & ((1 << width) - 1)
        part = torch.cat([part, part.new_zeros(-len(part) % per)]).reshape(-1, per)
        plane = torch.zeros(len(part), dtype=torch.uint8)
        for place in range(per):
            plane |= part[:, place] << (width * place)
        packed.append(plane)
        remaining = remaining >> width if width < 8 else remaining
    return packed


def unpack(packed: list[Tensor], bits: int, count: int) -> Tensor:
    """Return the `count` codes that `pack` packed, (count,) uint8."""
    codes, shift = torch.zeros(count, dtype=torch.uint8), 0
    for width, plane in zip(planes(bits), packed, strict=True):
        places = torch.arange(0, 8, width, dtype=torch.uint8)
        part = (plane[:, None] >> places) & ((1 << width) - 1)
        codes |= part.flatten()[:count] << shift
        shift += width
    return codes
