"""Operations that a loaded program executes, their precisions and times, beside what was asked."""

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Self

from spaces import Encoding

FEW = 3
"""Names and groups of operations that are kept; all are counted."""
NEARLY_ALL = 0.95
"""Share of the multiply-adds from which they count as executed as asked: a small layer at the end
stays wider in most runtimes, on purpose."""

SMALL = 0.01
"""Share of the time below which a group of operations is not told."""
NOTABLE = 0.2
"""Share of a run outside of its operations from which it is told: profiles are that coarse."""


class Kind(enum.StrEnum):
    """Kind of an operation."""

    CONVOLUTION = "convolution"
    LINEAR = "linear layer"
    RECURRENT = "recurrent layer"
    PRODUCT = "product of activations"
    """Both factors are computed, as in attention."""
    CONVERSION = "conversion"
    """Changes the number format or the order in memory, and computes nothing."""
    OTHER = "other operation"


LAYERS = (Kind.CONVOLUTION, Kind.LINEAR, Kind.RECURRENT)
"""Kinds that multiply activations by weights."""
MULTIPLYING = (*LAYERS, Kind.PRODUCT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a loaded program, as its runtime reports it; None means unknown."""

    name: str
    kind: Kind
    precision: str | None = None
    """Type of the factors that it multiplies: float32, tf32, bfloat16, float16, float8 or int8."""
    multiply_adds: int | None = None
    """Multiplications of one run, where they follow from shapes."""
    seconds: float | None = None
    """Time in one run."""
    weight_bits: int | None = None
    """Bits of each weight as the operation reads it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Operations of one kind and precision, and their share of the time."""

    kind: Kind
    precision: str | None
    count: int
    share: float
    """Their share of the operations' time."""
    largest: float
    """Share of the longest of them."""

    def __str__(self) -> str:
        """Return the part in words: `38 % in one float32 convolution`."""
        words = " ".join(filter(None, [self.precision, self.kind]))
        if self.count == 1:
            return f"{_percent(self.share)} in one {words}"
        plural = words.replace("product", "products") if "product" in words else f"{words}s"
        return f"{_percent(self.share)} in {self.count} {plural} (longest {_percent(self.largest)})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """What a loaded artifact executes, beside the precision that its encoding asks for."""

    asked: str
    """Precision of the products that the encoding asks for: see `asked_precision`."""
    share: float | None
    """Share of the multiply-adds that are executed in it; None if the runtime does not say."""
    few_bits: float | None = None
    """Share of the layers' multiply-adds that read their weights in few bits; None unless the
    encoding asks for them with unquantized activations, or if the runtime does not say."""
    conversions: float | None = None
    """Share of the operations' time that conversions take."""
    others: tuple[str, ...] = ()
    """The largest operations in another precision, each with that precision."""
    others_count: int = 0
    parts: tuple[Part, ...] = ()
    """The longest groups of operations, longest first."""
    outside: float | None = None
    """Share of a run's time that is spent outside of all operations, in calls for instance."""

    @classmethod
    def of(
        cls, operations: Sequence[Operation], encoding: Encoding, seconds: float | None = None
    ) -> Self:
        """Summarise the operations of an artifact with this encoding, and `seconds` of a run."""
        asked = asked_precision(encoding)
        # 8 bits are asked for where activations enter layers with weights, types everywhere.
        eight_bits = asked == "float8" or asked.startswith("int")
        kinds = LAYERS if eight_bits else MULTIPLYING
        multiplying = [_in_terms_of(asked, o) for o in operations if o.kind in kinds]
        others = [o for o in multiplying if o.precision not in (asked, None)]
        others.sort(key=lambda o: -(o.multiply_adds or 0))
        weights_only = encoding.quantized and encoding.activation_bits == 32
        layers = [o for o in operations if o.kind in LAYERS]
        return cls(
            asked=asked,
            share=_share(multiplying, [o.precision and o.precision == asked for o in multiplying]),
            few_bits=_share(layers, [o.weight_bits and o.weight_bits < 16 for o in layers])
            if weights_only
            else None,
            conversions=_conversions(operations),
            others=tuple(f"{o.name} ({o.precision})" for o in others[:FEW]),
            others_count=len(others),
            parts=_parts(operations),
            outside=_outside(operations, seconds),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the execution whose fields `data` holds as plain data."""
        parts = [{**part, "kind": Kind(part["kind"])} for part in data.get("parts", ())]
        others = tuple(data.get("others", ()))
        return cls(**{**data, "others": others, "parts": tuple(Part(**part) for part in parts)})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return dataclasses.asdict(self)

    @property
    def never(self) -> bool:
        """True if nothing is executed in the asked precision."""
        return self.share == 0

    def shortfall(self) -> str | None:
        """Return one sentence on what is not executed as asked; None if nearly all is."""
        if self.share is None or self.share >= NEARLY_ALL:
            return None
        more = self.others_count - len(self.others)
        names = ", ".join(self.others) + (f" and {more} more" if more > 0 else "")
        return (
            f"{_percent(self.share).capitalize()} of the multiply-adds are executed in "
            f"{self.asked} as asked; not so: {names}."
        )

    def unpacked(self) -> str | None:
        """Return one sentence if weights of few bits are unpacked before they are read."""
        if self.few_bits is None or self.few_bits >= NEARLY_ALL:
            return None
        if self.few_bits == 0:
            return "Its weights are stored in few bits and unpacked when they are loaded."
        share = _percent(self.few_bits).capitalize()
        return f"{share} of the multiply-adds read their weights in few bits, others unpacked."

    def why(self) -> str | None:
        """Return one sentence on what the time is spent on; None if the runtime does not say."""
        if not self.parts:
            return None
        sentence = f"Its operations' time: {_enumerated([str(part) for part in self.parts])}."
        if (self.outside or 0.0) < NOTABLE:
            return sentence
        return f"{sentence[:-1]}; {_percent(self.outside or 0.0)} of a run passes outside of them."


def asked_precision(encoding: Encoding) -> str:
    """Return the precision of the products that an encoding asks for.

    Quantized activations ask for integers in every layer with weights. Weights alone in few bits
    ask for products in the floating-point type: they save bytes, and no arithmetic.
    """
    if encoding.activation_bits < 32:
        return f"int{encoding.activation_bits}"
    return encoding.dtype


def _in_terms_of(asked: str, operation: Operation) -> Operation:
    """Return an operation with its precision as far as it can be told from what was asked for.

    PyTorch rounds float32 factors to TF32 in convolutions, unless asked not to. Operators do not
    tell it, since their tensors are float32; the names of some kernels do.
    """
    if asked == "float32" and operation.precision == "tf32":
        return dataclasses.replace(operation, precision="float32")
    if asked == "tf32" and operation.precision == "float32":
        return dataclasses.replace(operation, precision=None)
    return operation


def _share(
    operations: Sequence[Operation], holds: Sequence[bool | str | int | None]
) -> float | None:
    """Return the share of the multiply-adds for which a condition holds.

    Where it holds for all operations or for none, their multiply-adds need not be known. Returns
    None if it is unknown for one of them.
    """
    if not operations or None in holds:
        return None
    if len(set(map(bool, holds))) == 1:
        return float(bool(holds[0]))
    counts = [o.multiply_adds for o in operations]
    if None in counts or not (total := sum(c or 0 for c in counts)):
        return None
    kept = sum(count or 0 for count, hold in zip(counts, holds, strict=True) if hold)
    return round(kept / total, 4)


def _conversions(operations: Sequence[Operation]) -> float | None:
    total = sum(o.seconds or 0.0 for o in operations)
    if not total:
        return None
    spent = sum(o.seconds or 0.0 for o in operations if o.kind is Kind.CONVERSION)
    return round(spent / total, 4)


def _outside(operations: Sequence[Operation], seconds: float | None) -> float | None:
    total = sum(o.seconds or 0.0 for o in operations)
    return round(max(0.0, 1 - total / seconds), 4) if seconds and total else None


def typical(observations: Sequence[float]) -> float:
    """Return the mean of the faster half: disturbances only add time, and profiles round it."""
    return statistics.fmean(sorted(observations)[: (len(observations) + 1) // 2])


def _parts(operations: Sequence[Operation]) -> tuple[Part, ...]:
    """Return the groups of one kind and precision that take longest."""
    total = sum(o.seconds or 0.0 for o in operations)
    groups: dict[tuple[Kind, str | None], list[float]] = {}
    for operation in operations:
        if operation.seconds:
            precision = operation.precision if operation.kind in MULTIPLYING else None
            groups.setdefault((operation.kind, precision), []).append(operation.seconds / total)
    parts = [
        Part(
            kind=kind,
            precision=precision,
            count=len(shares),
            share=round(sum(shares), 4),
            largest=round(max(shares), 4),
        )
        for (kind, precision), shares in groups.items()
    ]
    parts.sort(key=lambda part: -part.share)
    return tuple(parts[:1] + [part for part in parts[1:FEW] if part.share >= SMALL])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= SMALL else "under 1 %"


def _enumerated(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
