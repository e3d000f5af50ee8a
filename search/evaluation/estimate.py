"""Estimate the score of a model in training, to rank it among others at a rung."""

import dataclasses
from pathlib import Path

import torch
from torch import nn

from objectives import Examples, Measurement
from objectives.artifacts import signature_of
from objectives.exporting import torch_modules
from search.experiment import Experiment
from spaces.modules import evaluating, rows, transform

SAMPLES = 512
"""Samples on which a model in training is scored."""
BATCH = 64


def estimate_scores(
    experiment: Experiment, model: nn.Module, examples: Examples, folder: Path
) -> dict[str, Measurement]:
    """Return the objectives that depend on training, computed by PyTorch for `model` as it is now.

    They are computed on samples spread over the split, in float32 and without encoding. This is
    good enough to rank models estimated alike, and is never recorded. `folder` is the folder of the
    future artifact.
    """
    examples = examples.thinned(SAMPLES)
    target = dataclasses.replace(experiment.target, batch_size=min(BATCH, len(examples)))
    device = next(model.parameters()).device
    first = rows(examples.inputs, slice(0, target.batch_size))
    example = transform(first, lambda tensor: tensor.to(device))
    with evaluating(model):
        signature = signature_of(model, example, target)
        program = torch_modules.ModuleProgram(
            signature, target, folder, model=model, dtype=torch.float32
        )
        goals = [g for g in experiment.objectives if g.objective.trained]
        return {g.name: g.objective.measure(program, examples) for g in goals}
