"""Recovery training: one loop with the loss terms and constraints of all techniques."""

from spaces.training.batches import example
from spaces.training.defaults import BATCHES, normalised, operations
from spaces.training.logits_term import distillation, has_classes, sampled
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
    "sampled",
]
