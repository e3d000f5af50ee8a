"""PyTorch as it is, with kernels for few bits where they are faster."""

from objectives.runtimes.eager.runtime import Eager

__all__ = [
    "Eager",
]
