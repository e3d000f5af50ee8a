"""Results of a trial's stages by content, so that nothing is computed twice in a run."""

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
    """The stages' results of one run; only successes are in it."""

    folder: Path
    identity: Mapping[str, Any]
    """What all stages depend on: the reference, the data, the seed, target and libraries."""

    @classmethod
    def of(
        cls, folder: Path, experiment: Experiment, reference: nn.Module, data: Examples
    ) -> "Cache":
        """Return the cache of a run in `folder`."""
        identity = {
            "weights": _digest(reference),
            "data": fingerprint(data),
            "seed": experiment.seed,
            "target": dataclasses.asdict(experiment.target),
            "versions": versions(),
        }
        return cls(folder=folder, identity=identity)

    def place(self, stage: str, **parts: Any) -> Path:
        """Return where the result of a stage lies, or will; `parts` are the settings so far."""
        content = {**self.identity, **{k: _plain(v) for k, v in parts.items()}}
        text = json.dumps(content, sort_keys=True, default=str)
        return self.folder / stage / hashlib.sha256(text.encode()).hexdigest()[:32]

    @contextlib.contextmanager
    def alone(self, place: Path) -> Iterator[None]:
        """Let other trials that need the same result wait for it rather than compute it too."""
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_suffix(".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def load(self, place: Path, reference_copy: nn.Module) -> nn.Module | None:
        """Return the model stored at a place, made out of `reference_copy`; None if none is."""
        return surgery.load(place, reference_copy) if (place / "done").is_file() else None

    def facts(self, place: Path) -> dict[str, Any]:
        """Return what was stored about the model at a place."""
        return dict(json.loads((place / "done").read_text() or "{}"))

    def store(
        self, place: Path, reference: nn.Module, model: nn.Module, facts: Mapping[str, Any]
    ) -> None:
        """Store a model at a place with what is known of it, whole or not at all."""
        with new_folder(place) as draft:
            surgery.save(draft, reference, model)
            (draft / "done").write_text(json.dumps(facts))


def _digest(model: nn.Module) -> str:
    """Return a sha256 over a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return repr(value) if dataclasses.is_dataclass(value) else value
