"""Store weights as indices into a codebook for each layer."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice
from spaces.quantization import Tied, constrained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters(Technique):
    """Store weights as indices of `bits` bits into a layer's codebook, found by k-means.

    If distill.logits trains, the values of the codebook are trained and the indices stay. Pruned
    weights stay zero. Codebooks make files smaller; with deploy.coding, files take fewer bits per
    weight than the indices, since values are not equally frequent. Runtimes look up the values
    when they load the file. Source: Han et al. 2016, Deep Compression, section 3.
    """

    stage = Stage.ENCODE
    bits: int = axis(
        32, choice(32, 8, 6, 5, 4), unit="bits per weight", short="{value}-bit codebooks"
    )

    def __post_init__(self) -> None:
        if self.bits != 32 and not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be 32 or from 1 to 8, got {self.bits}")

    def plan(self, plan: Plan) -> Plan:
        """Set the codebooks, and constrain training to them."""
        if self.bits == 32:
            return plan
        encoding = dataclasses.replace(plan.encoding, cluster_bits=self.bits)
        return constrained(dataclasses.replace(plan, encoding=encoding), Tied(bits=self.bits))

    def usual(self) -> tuple[Self, ...]:
        """Return 5 bits, then 4."""
        return tuple(dataclasses.replace(self, bits=bits) for bits in (5, 4))
