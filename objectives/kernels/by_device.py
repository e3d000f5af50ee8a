"""Look up the low-bit kernels of a device type; other types get dense layers only."""

from torch import Tensor, nn

from objectives.exporting import Rounded
from objectives.kernels.cpu import Cpu
from objectives.kernels.cuda import Cuda
from objectives.kernels.kernels import GPU_ONLY, Kernels
from spaces import Infeasible, Precision


class Dense(Kernels):
    """A device type without known low-bit kernels: all its layers are dense."""

    eight_bit_weights = False

    def __init__(self, device: str) -> None:
        self.device = device

    def lacks(self, dtype: Precision) -> str | None:
        """Refuse what only GPUs have; other types are tried at the export."""
        return f"PyTorch has no {dtype} layers on {self.device}." if dtype in GPU_ONLY else None

    def lacks_integers(self, dtype: Precision) -> str:
        """Refuse: there are no 8-bit linear layers."""
        del dtype
        return f"PyTorch has no 8-bit linear layers on {self.device}."

    def fits(self, layer: nn.Linear) -> bool:
        """Return False."""
        del layer
        return False

    def integer_linear(self, weight: Rounded, bias: Tensor | None) -> nn.Module:
        """Raise Infeasible."""
        del weight, bias
        raise Infeasible(self.lacks_integers("float32"))

    def four_bits(self) -> None:
        """Return None."""


def kernels_of(device: str) -> Kernels:
    """Return the kernels of a device type, named as in a target."""
    known: dict[str, Kernels] = {kernels.device: kernels for kernels in (Cpu(), Cuda())}
    return known.get(device) or Dense(device)
