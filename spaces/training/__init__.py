"""Recovery training: one loop, to which several techniques contribute."""

from spaces.training.batches import example
from spaces.training.defaults import BATCHES, normalised, operations
from spaces.training.logits_term import distillation, has_classes
from spaces.training.mixed_precision import TYPES, refusal

__all__ = [
    "BATCHES",
    "TYPES",
    "distillation",
    "example",
    "has_classes",
    "normalised",
    "operations",
    "recovery",
    "refusal",
]
