"""Handwritten digits and a small trained network: the task of the embedded default."""

from objectives.tasks.digits.task import IMAGES, WEIGHTS, Digits, Network

__all__ = [
    "IMAGES",
    "WEIGHTS",
    "Digits",
    "Network",
]
