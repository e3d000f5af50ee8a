"""Digits: the task of the embedded default experiment."""

from objectives.tasks.digits.task import IMAGES, WEIGHTS, Digits, Network

__all__ = [
    "IMAGES",
    "WEIGHTS",
    "Digits",
    "Network",
]
