"""PyTorch compiled ahead of time by Inductor."""

from objectives.runtimes.inductor.runtime import Inductor

__all__ = ["Inductor"]
