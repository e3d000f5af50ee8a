"""Origin: digests of the code, weights and data of a run, versions of libraries, and its device."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any, Self, get_args

from torch import nn

from objectives import Examples, fingerprint
from objectives.artifacts import versions
from objectives.host import processor
from search.evaluation import digest_of_weights
from search.experiment import Experiment
from search.origin.code import Code, code_of
from spaces import Split
from spaces.devices import device_of
from spaces.modules import seeded, transform

SAMPLES = 64
"""First samples of each split whose values are recorded."""
PACKAGES = ("optuna", "paretune")
"""Packages that affect which points are searched, beside those that affect artifacts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What the records of a run were made from."""

    code: Code
    weights: str
    """Digest of the unchanged model's weights."""
    samples: Mapping[str, str]
    """Digest of the first samples of each split."""
    versions: Mapping[str, str]
    device: str
    """Name of the processor or accelerator; empty if trials run elsewhere."""

    @classmethod
    def of(cls, experiment: Experiment, model: nn.Module) -> Self:
        """Return the origin of what an experiment would measure now; `model` is unchanged."""
        return cls(
            code=code_of(experiment),
            weights=digest_of_weights(model)[:16],
            samples={split: first_samples(experiment, split) for split in get_args(Split)},
            versions=_versions(experiment),
            device="" if experiment.executor else _device(experiment.target.device),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the origin as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the origin that `to_json` described; raises TypeError on other keys."""
        return cls(**data)


def first_samples(experiment: Experiment, split: Split) -> str:
    """Return the digest of a split's first samples, read with the experiment's seed."""
    with seeded(experiment.seed):
        inputs, targets = next(iter(experiment.task.batches(split, SAMPLES)))
    examples = Examples(
        inputs=transform(inputs, lambda tensor: tensor.detach().cpu()),
        targets=transform(targets, lambda tensor: tensor.detach().cpu()),
        score=experiment.task.score,
    )
    return fingerprint(examples)[:16]


def _versions(experiment: Experiment) -> dict[str, str]:
    found = versions(*map(experiment.runtime, experiment.runtime_names()))
    for package in (*PACKAGES, *experiment.task.packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _device(name: str) -> str:
    return next(iter(device_of(name).product_names()), "") or processor()
