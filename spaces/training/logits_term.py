"""The distillation term of the loss: the distance of a student's outputs from its teacher's."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spaces.modules import flatten, names
from spaces.technique import Infeasible

TINY = 1e-12
"""Smallest probability whose logarithm is taken; its share of a divergence is negligible."""


def distillation(
    outputs: Any, teacher_outputs: Any, temperature: float, *, hard: bool = False
) -> Tensor:
    """Return the mean over the heads of T^2 KL(teacher || student) of softened classes, in nats.

    T^2 keeps the size of the gradients if T changes (Hinton et al. 2015, section 2). With `hard`
    it is instead the cross-entropy with the teacher's most probable class as the label, and T is
    not used (Touvron et al. 2021, section 4). A head with a single column is a logit or a regressed
    value, which has no classes; its term is the mean squared difference (Ba and Caruana 2014,
    section 2.2) in either case. Raises Infeasible if no output can be distilled.
    """
    pairs = _heads(outputs, teacher_outputs)
    if not pairs:
        raise Infeasible(
            "there is nothing to distill: no output is a floating-point tensor with the shape of "
            "the uncompressed model's; set distill.logits weight = 0 for plain fine-tuning"
        )
    terms = [
        _hard(s.float(), t.float()) if hard else _soft(s.float(), t.float(), temperature)
        for s, t in pairs
    ]
    return torch.stack(terms).mean()


def has_classes(outputs: Any) -> bool:
    """Return True if any distilled output of a model has classes."""
    return any(_class_axis(head) is not None for head, _ in _heads(outputs, outputs))


def _heads(outputs: Any, teacher_outputs: Any) -> list[tuple[Tensor, Tensor]]:
    """Return (student, teacher) for each output that is distilled.

    They are the outputs with "logits" in their names if there are any, else all outputs. Excluded
    are integers, scalars (such as a loss that the model computes) and tensors whose shape differs
    from the teacher's (such as hidden states).
    """
    (student, spec), (teacher, _) = flatten(outputs), flatten(teacher_outputs)
    pairs = list(zip(names(spec), student, teacher, strict=True))
    named = [pair for pair in pairs if "logits" in pair[0].rpartition(".")[2]]
    return [
        (s, t)
        for _, s, t in named or pairs
        if s.is_floating_point() and s.dim() > 0 and s.shape == t.shape
    ]


def _hard(student: Tensor, teacher: Tensor) -> Tensor:
    axis = _class_axis(student)
    if axis is None:
        return F.mse_loss(student, teacher)
    if _probabilities(teacher, axis):
        student = student.clamp_min(TINY).log()
    logarithms = student.log_softmax(axis)
    return -logarithms.gather(axis, teacher.argmax(axis, keepdim=True)).mean()


def _soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    axis = _class_axis(student)
    if axis is None:
        return F.mse_loss(student, teacher)
    if _probabilities(teacher, axis):
        student, teacher = student.clamp_min(TINY).log(), teacher.clamp_min(TINY).log()
    soft = (student / temperature).log_softmax(axis)
    target = (teacher / temperature).log_softmax(axis)
    divergence = F.kl_div(soft, target, reduction="none", log_target=True).sum(axis)
    return temperature**2 * divergence.mean()


def sampled(outputs: Any, generator: torch.Generator) -> Tensor:
    """Return a random scalar of which gradients tell what changes of `outputs` do.

    If the outputs of one sample change by d, and g is the scalar's gradient, the expectation of
    (g d)^2 / 2 over random numbers is the distillation term at temperature 1 to second order: that
    of classes is the Fisher information, whose expectation is over labels that the model itself
    would draw (Martens 2020, New insights and perspectives on the natural gradient method, section
    5). Raises Infeasible as `distillation` does.
    """
    heads = [head.float() for head, _ in _heads(outputs, outputs)]
    if not heads:
        raise Infeasible("there is nothing to distill: no output is a floating-point tensor")
    together: Tensor = torch.stack([_drawn(head, generator) for head in heads]).sum()
    return together / math.sqrt(len(heads))


def _drawn(head: Tensor, generator: torch.Generator) -> Tensor:
    """Return the scalar of one head."""
    axis = _class_axis(head)
    if axis is None:  # the mean square has twice the curvature of a half square
        signs = torch.randint(0, 2, head.shape, generator=generator).to(head) * 2 - 1
        return (head * signs).sum() * math.sqrt(2 / head.numel())
    logits = head.clamp_min(TINY).log() if _probabilities(head, axis) else head
    rows = logits.movedim(axis, -1).flatten(0, -2).log_softmax(-1)
    chances = rows.detach().exp().cpu()
    labels = torch.multinomial(chances, 1, generator=generator).to(rows.device)
    return rows.gather(-1, labels).sum() / math.sqrt(len(rows))


def _class_axis(head: Tensor) -> int | None:
    """Return the dimension of the classes, None if there is only one column.

    It is the last dimension, (batch, classes) or (batch, tokens, classes), but the second one of
    maps, (batch, classes, height, width), as in torch's cross-entropy.
    """
    axis = 1 if head.dim() >= 4 else head.dim() - 1
    return axis if axis > 0 and head.shape[axis] > 1 else None


def _probabilities(head: Tensor, axis: int) -> bool:
    """Return True if a head is the output of a softmax: never negative, and every sum is one."""
    if bool((head < 0).any()):
        return False
    sums = head.sum(axis)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
