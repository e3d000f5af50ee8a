"""Eager: PyTorch without a compiler, with low-bit kernels where they are faster."""

from objectives.runtimes.eager.runtime import Eager

__all__ = [
    "Eager",
]
