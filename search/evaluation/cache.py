"""Cache of the results of trial stages, keyed by content, so that a run computes each only once."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives import Examples, fingerprint
from objectives.artifacts import versions
from objectives.host import new_file, new_folder
from search.evaluation.eviction import GIGABYTE, evict, used
from search.experiment import Experiment
from spaces import Memory
from spaces.devices import HOST
from spaces.modules import surgery


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
    """Results of successful stages in one run."""

    folder: Path
    identity: Mapping[str, Any]
    """Inputs of all stages: reference weights, data, seed, target and library versions."""
    saved: dict[str, float] = dataclasses.field(default_factory=dict)
    """Seconds that results of earlier trials saved this trial, by stage."""
    limit: float = 10 * GIGABYTE
    """Largest number of bytes of stored results."""
    own: set[Path] = dataclasses.field(default_factory=set)
    """Results that this trial computed."""

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
        limit = experiment.cache_gb * GIGABYTE
        return cls(folder=folder, identity=identity, limit=limit)

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

    def model(
        self,
        stage: str,
        parts: Mapping[str, Any],
        reference: nn.Module,
        fresh: Callable[[], nn.Module],
        compute: Callable[[], tuple[nn.Module, dict[str, Any]]],
    ) -> tuple[nn.Module, dict[str, Any], bool]:
        """Return the model and the facts of a stage, and True if an earlier trial computed them.

        `compute` is called where the cache has none; a stored model is loaded into the reference's
        copy that `fresh` returns.
        """
        path, start = self.path(stage, **parts), time.perf_counter()
        with self.locked(path):
            if (path / "done").is_file():
                model = surgery.load(path, fresh())
                stored = json.loads((path / "done").read_text())
                self._save(path, stage, stored["seconds"], start)
                return model, stored["facts"], True
            start = time.perf_counter()  # without the time spent waiting
            model, facts = compute()
            done = {"facts": facts, "seconds": time.perf_counter() - start}
            with new_folder(path) as draft:
                surgery.save(draft, reference, model)
                (draft / "done").write_text(json.dumps(done))
            self.own.add(path)
        evict(self.folder, self.limit)
        return model, facts, False

    def value(
        self,
        stage: str,
        parts: Mapping[str, Any],
        compute: Callable[[], Any],
        *,
        device: torch.device = HOST,
        renew: bool = False,
    ) -> Any:
        """Return a value of tensors and plain data on `device`; the first trial computes it.

        With `renew` this trial computes it for the others, whether it is known or not.
        """
        path, start = self.path(stage, **parts).with_suffix(".pt"), time.perf_counter()
        with self.locked(path):
            if path.is_file() and not renew:
                stored = torch.load(path, map_location=device, weights_only=True)
                self._save(path, stage, stored["seconds"], start)
                return stored["value"]
            start = time.perf_counter()
            value = compute()
            done = {"value": value, "seconds": time.perf_counter() - start}
            with new_file(path) as draft:
                torch.save(done, draft)
            self.own.add(path)
        evict(self.folder, self.limit)
        return value

    def _save(self, path: Path, stage: str, seconds: float, start: float) -> None:
        """Count what an earlier trial's result saved: its seconds, less the time since `start`."""
        used(path)
        if path in self.own:
            return
        gained, name = seconds - (time.perf_counter() - start), stage.partition("/")[0]
        self.saved[name] = self.saved.get(name, 0.0) + max(0.0, gained)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedMemory(Memory):
    """Memory of the techniques of a run: values are kept in its cache, for all its workers."""

    cache: Cache
    device: torch.device
    """Device on which a trial's model is edited."""

    def remembered(
        self, kind: str, follows_from: Mapping[str, Any], compute: Callable[[], Any]
    ) -> Any:
        """Return the value of `compute`, or the one that a trial of this run computed before."""
        parts = {"device": str(self.device), "follows_from": follows_from}
        return self.cache.value(f"statistics/{kind}", parts, compute, device=self.device)


def digest_of_weights(model: nn.Module) -> str:
    """Return the sha256 of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return repr(value) if dataclasses.is_dataclass(value) else value
