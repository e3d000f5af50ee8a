"""Inductor: PyTorch models compiled ahead of time."""

from objectives.runtimes.inductor.runtime import Inductor

__all__ = ["Inductor"]
