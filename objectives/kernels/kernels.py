"""Interface of the low-bit kernels of one device type."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from objectives.exporting import Rounded
from spaces import Precision

GPU_ONLY = ("tf32", "float8")
"""Types of products that tensor cores of GPUs compute and no other device's layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FourBits:
    """A kernel that multiplies bfloat16 inputs by weights in 4 bits."""

    rows: int
    """The number of outputs must be a multiple of this."""
    columns: int
    """The number of inputs must be a multiple of this."""
    pack: Callable[[Tensor], Tensor]
    """Packs int32 codes 0..15 (rows, columns) in the order in which the kernel reads them."""
    product: Callable[[Tensor, Tensor, int, Tensor], Tensor]
    """Multiplies inputs (samples, columns) by packed codes. Further arguments: the number of inputs
    per group, and the scales and offsets of the groups (groups, rows, 2)."""


class Kernels(abc.ABC):
    """Interface of the low-bit kernels of one device type."""

    device: str
    """The device type, as in a target."""
    eight_bit_weights: ClassVar[bool]
    """True if the kernel for weights in 8 bits is faster than a dense layer."""

    @abc.abstractmethod
    def lacks(self, dtype: Precision) -> str | None:
        """Reason, in one sentence, why models are not computed in `dtype`; None if they are."""

    @abc.abstractmethod
    def lacks_integers(self, dtype: Precision) -> str | None:
        """Reason why there are no 8-bit linear layers in models of `dtype`; None if there are."""

    @abc.abstractmethod
    def fits(self, layer: nn.Linear) -> bool:
        """True if an 8-bit linear layer can have the sizes of `layer`."""

    @abc.abstractmethod
    def integer_linear(self, weight: Rounded, bias: Tensor | None) -> nn.Module:
        """Return a linear layer that multiplies 8-bit integers.

        Raises Infeasible if the device type has none."""

    @abc.abstractmethod
    def four_bits(self) -> FourBits | None:
        """Return the kernel for weights in 4 bits; None if there is none."""
