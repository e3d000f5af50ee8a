"""What PyTorch multiplies by in 8 bits and fewer on one kind of device."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from objectives.exporting import Rounded
from spaces import Precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class FourBits:
    """A kernel that multiplies bfloat16 inputs by weights in 4 bits."""

    rows: int
    """Outputs that it takes are a multiple of this."""
    columns: int
    """Inputs that it takes are a multiple of this."""
    pack: Callable[[Tensor], Tensor]
    """Puts int32 codes 0..15, (rows, columns), into the order in which it reads them."""
    product: Callable[[Tensor, Tensor, int, Tensor], Tensor]
    """Multiplies inputs, (samples, columns), by packed codes, with the inputs of a group and the
    scales and offsets of the groups, (groups, rows, 2)."""


class Kernels(abc.ABC):
    """The kernels of one kind of device."""

    device: str
    """Its name, as in a target."""
    eight_bit_weights: ClassVar[bool]
    """Whether the kernel for weights in 8 bits is faster than a dense layer."""

    @abc.abstractmethod
    def lacks(self, dtype: Precision) -> str | None:
        """Return in one sentence why models are not computed in a type, None if they are."""

    @abc.abstractmethod
    def lacks_integers(self, dtype: Precision) -> str | None:
        """Return why there are no 8-bit linear layers between layers of a type, None if any."""

    @abc.abstractmethod
    def fits(self, layer: nn.Linear) -> bool:
        """Whether an 8-bit linear layer can have the sizes of `layer`."""

    @abc.abstractmethod
    def integer_linear(self, weight: Rounded, bias: Tensor | None) -> nn.Module:
        """Return a linear layer that multiplies 8-bit integers."""

    @abc.abstractmethod
    def four_bits(self) -> FourBits | None:
        """Return the kernel for weights in 4 bits, None without one."""
