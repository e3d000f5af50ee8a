"""Cache of the results of trial stages, keyed by content, so that a run computes each only once."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives import Examples, fingerprint
from objectives.artifacts import versions
from objectives.host import new_folder
from search.experiment import Experiment
from spaces.modules import surgery


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """Results of successful stages in one run."""

    folder: Path
    identity: Mapping[str, Any]
    """Inputs of all stages: reference weights, data, seed, target and library versions."""

    @classmethod
    def of(
        cls, folder: Path, experiment: Experiment, reference: nn.Module, data: Examples
    ) -> "Cache":
        """Return the cache in `folder` for a reference, its data and an experiment."""
        identity = {
            "weights": digest_of_weights(reference),
            "data": fingerprint(data),
            "seed": experiment.seed,
            "target": dataclasses.asdict(experiment.target),
            "versions": versions(),
        }
        return cls(folder=folder, identity=identity)

    def path(self, stage: str, **parts: Any) -> Path:
        """Return the path for the result of a stage; `parts` are the settings that affect it."""
        content = {**self.identity, **{k: _plain(v) for k, v in parts.items()}}
        text = json.dumps(content, sort_keys=True, default=str)
        return self.folder / stage / hashlib.sha256(text.encode()).hexdigest()[:32]

    @contextlib.contextmanager
    def locked(self, path: Path) -> Iterator[None]:
        """Lock a path, so that other trials that need the same result wait for it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def load(self, path: Path, reference_copy: nn.Module) -> nn.Module | None:
        """Return the model stored at a path, loaded into `reference_copy`, or None."""
        return surgery.load(path, reference_copy) if (path / "done").is_file() else None

    def facts(self, path: Path) -> dict[str, Any]:
        """Return the facts stored with the model at a path."""
        return dict(json.loads((path / "done").read_text() or "{}"))

    def store(
        self, path: Path, reference: nn.Module, model: nn.Module, facts: Mapping[str, Any]
    ) -> None:
        """Store a model and its facts at a path, atomically."""
        with new_folder(path) as draft:
            surgery.save(draft, reference, model)
            (draft / "done").write_text(json.dumps(facts))


def digest_of_weights(model: nn.Module) -> str:
    """Return the sha256 of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return repr(value) if dataclasses.is_dataclass(value) else value
