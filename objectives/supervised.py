"""Losses and scores of the usual kinds of models: of classes, of several labels, of numbers."""

import enum
from typing import Any

from torch import Tensor
from torch.nn import functional as F


class Kind(enum.StrEnum):
    """Kind of what a model predicts of a sample."""

    CLASSES = "one class"
    LABELS = "several labels"
    NUMBERS = "numbers"


def loss_of(kind: Kind, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a batch.

    It is the cross-entropy of logits (batch, classes) with class numbers (batch,), the binary
    cross-entropy of logits with zeros and ones of the same shape, or the squared error.
    """
    if kind is Kind.CLASSES:
        return F.cross_entropy(outputs, targets)
    outputs = outputs.reshape(targets.shape)
    if kind is Kind.LABELS:
        return F.binary_cross_entropy_with_logits(outputs, targets)
    return F.mse_loss(outputs, targets)


def score_of(kind: Kind, outputs: Tensor, targets: Tensor) -> float:
    """Return the score of samples, 1 at best.

    It is the share of right classes, the F1 of all labels together with logits above 0 as present,
    or the coefficient of determination: 1 for exact numbers, 0 for their mean as every answer.
    """
    if kind is Kind.CLASSES:
        return float((outputs.argmax(1) == targets).float().mean())
    outputs = outputs.reshape(targets.shape)
    if kind is Kind.LABELS:
        present, right = outputs > 0, targets > 0.5
        found = float((present & right).sum())
        return 2 * found / max(1.0, float(present.sum() + right.sum()))
    errors = float((outputs - targets).double().square().sum())
    spread = float((targets - targets.mean(0)).double().square().sum())
    return 1 - errors / spread if spread else float("nan")


def kind_of_targets(outputs: Any, targets: Any) -> Kind | None:
    """Return the kind of model that has these outputs and targets, None for any other.

    Class numbers are integers beside logits; zeros and ones are labels, other floats numbers.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return None
    if not targets.is_floating_point():
        fits = outputs.dim() == 2 and targets.shape == outputs.shape[:1] and outputs.shape[1] > 1
        return Kind.CLASSES if fits else None
    if outputs.numel() != targets.numel():
        return None
    several = targets.dim() > 1 and targets.shape[-1] > 1
    return Kind.LABELS if several and _binary(targets) else Kind.NUMBERS


def _binary(targets: Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())
