"""Work: operations and bytes that one batch of an artifact cannot do without."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Operations and bytes that one batch of an artifact cannot do without."""

    operations: int
    """Twice the multiply-adds of the products, zero weights included."""
    bytes: int
    """Bytes of the weights in the bits of the encoding, of the inputs and of the outputs. What a
    runtime moves besides, such as activations, is not compulsory and does not count."""
    precision: str
    """Type in which products are computed: a name in Encoding.dtype, or int8."""
    uncounted: tuple[str, ...] = ()
    """Operators of the model whose operations are not known and not in `operations`."""

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes

    @property
    def unknown(self) -> str | None:
        """Reason why the operations are not known, one sentence; None if they are."""
        if self.uncounted:
            return (
                f"the operations of this model cannot be counted: {', '.join(self.uncounted)} "
                "may compute anything"
            )
        return None if self.operations else "the model has no products: it has no operations"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the work that a manifest or a record describes."""
        return cls(**{**data, "uncounted": tuple(data.get("uncounted", ()))})
