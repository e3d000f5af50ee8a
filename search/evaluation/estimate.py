"""Estimate scores by PyTorch: of a model in training, and of the unchanged one before any trial."""

import dataclasses
import time
from pathlib import Path

import torch
from torch import nn

from objectives import Examples, Measurement
from objectives.artifacts import signature_of
from objectives.exporting import torch_modules
from search.experiment import Experiment
from search.records import smallest_difference
from spaces.modules import evaluating, rows, transform

SAMPLES = 512
"""Samples on which a model is scored."""
SECONDS = 2.0
"""Seconds for scoring the unchanged model, after which fewer samples have to do."""
FEWEST = 32
"""Samples on which it is scored at least, if the split has them."""
BATCH = 64


def smallest_differences(
    experiment: Experiment, model: nn.Module, examples: Examples
) -> dict[str, float]:
    """Return the smallest difference to the baseline that a split can show, by objective.

    Objectives that depend on training are scored for the unchanged model on some of the `examples`.
    """
    start = time.perf_counter()
    few = estimate_scores(experiment, model, examples, Path(), samples=FEWEST)
    seconds = time.perf_counter() - start
    samples = min(SAMPLES, len(examples), int(FEWEST * SECONDS / seconds))
    if samples > FEWEST:
        few = estimate_scores(experiment, model, examples, Path(), samples=samples)
    return {name: smallest_difference(score, len(examples)) for name, score in few.items()}


def estimate_scores(
    experiment: Experiment,
    model: nn.Module,
    examples: Examples,
    folder: Path,
    *,
    samples: int = SAMPLES,
) -> dict[str, Measurement]:
    """Return the objectives that depend on training, computed by PyTorch for `model` as it is now.

    They are computed on about `samples` samples spread over the split, in float32 and without
    encoding. This is good enough to rank models estimated alike, and is never recorded. `folder` is
    the folder of the future artifact.
    """
    examples = examples.thinned(samples)
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
