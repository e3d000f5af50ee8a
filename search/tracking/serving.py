"""Artifacts as models of MLflow's pyfunc flavour: written as a folder, loaded and called.

A folder holds the artifact, this package's code and the versions of what both need.
"""

import dataclasses
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from objectives import Program, Runtime
from objectives.artifacts import load, manifest_of
from search import catalogue
from search.errors import BadArtifact
from spaces import Split, Task
from spaces.modules import flatten, unflatten

CODE = ("search", "objectives", "spaces")
_NAMED = re.compile(r"^[A-Za-z0-9_.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A loaded artifact that takes and returns arrays."""

    program: Program
    names: tuple[str, ...]
    """Names of the inputs, in order."""
    types: tuple[str, ...]
    outputs: tuple[str, ...]

    def predict(self, inputs: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Return the outputs of any number of samples: an array, or arrays by name if several.

        `inputs` is the array of the only input, or a mapping of names to arrays. Raises ValueError
        if an input is missing.
        """
        del params
        tensors = [self._tensor(inputs, i) for i in range(len(self.names))]
        with torch.inference_mode():
            outputs = self.program(unflatten(tensors, self.program.signature.inputs))
        arrays = [tensor.numpy() for tensor in flatten(outputs)[0]]
        return arrays[0] if len(arrays) == 1 else dict(zip(self.outputs, arrays, strict=True))

    def _tensor(self, inputs: Any, index: int) -> Tensor:
        name = self.names[index]
        if isinstance(inputs, Mapping):
            if name not in inputs:
                raise ValueError(f"the input {name} is missing; there are {', '.join(self.names)}")
            inputs = inputs[name]
        elif len(self.names) > 1:
            raise ValueError(f"give the inputs by name: {', '.join(self.names)}")
        return torch.as_tensor(np.asarray(inputs)).to(getattr(torch, self.types[index]))


def _load_pyfunc(path: str) -> Served:
    """Load an artifact after checking its files; MLflow calls this by its name."""
    folder = Path(path)
    manifest = manifest_of(folder)
    runtime: Runtime = catalogue.find("runtime", manifest["runtime"], Runtime)()
    signature = manifest["signature"]
    return Served(
        program=load(folder, runtime, _task(manifest)),
        names=tuple(signature["input_names"]),
        types=tuple(signature["input_types"]),
        outputs=tuple(signature["output_names"]),
    )


def write(artifact: Path, folder: Path) -> None:
    """Write an artifact as a model folder of MLflow.

    Raises BadArtifact if it cannot be loaded without the user's code.
    """
    import mlflow.pyfunc  # takes seconds
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    _load_pyfunc(str(artifact)).program.close()
    manifest = manifest_of(artifact)
    described = manifest["signature"]

    def specs(side: str, types: list[str]) -> list[TensorSpec]:
        shapes, names = described[f"{side}_shapes"], described[f"{side}_names"]
        only = len(names) == 1
        return [
            TensorSpec(np.dtype(kind), (-1, *shape[1:]), None if only else name)
            for name, shape, kind in zip(names, shapes, types, strict=True)
        ]

    floats = ["float32"] * len(described["output_names"])
    signature = ModelSignature(
        inputs=Schema(specs("input", described["input_types"])),
        outputs=Schema(specs("output", floats)),
    )
    mlflow.pyfunc.save_model(
        folder,
        loader_module="search.tracking.serving",
        data_path=str(artifact),
        code_paths=[str(catalogue.home(package)) for package in CODE],
        signature=signature,
        input_example=_example(described),
        pip_requirements=_requirements(manifest),
        metadata={key: manifest[key] for key in ("runtime", "trial", "point") if key in manifest},
    )


def _example(signature: Mapping[str, Any]) -> Any:
    """Return a batch of zeros: an array, or arrays by name if there are several inputs."""
    arrays = {
        name: np.zeros(shape, kind)
        for name, shape, kind in zip(
            signature["input_names"],
            signature["input_shapes"],
            signature["input_types"],
            strict=True,
        )
    }
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _requirements(manifest: Mapping[str, Any]) -> list[str]:
    """Return what the code and the artifact's runtime need, at the versions of this machine."""
    wanted = importlib.metadata.requires("paretune") or []
    names = [
        match[0] for text in wanted if "extra ==" not in text and (match := _NAMED.match(text))
    ]
    names += [name for name in manifest["versions"] if name not in (*names, "python")]
    versions = {name: importlib.metadata.version(name) for name in names}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _task(manifest: Mapping[str, Any]) -> Task:
    """Return the task of an artifact; that of the user's code cannot build its model elsewhere."""
    name, settings = manifest["task"]["name"], dict(manifest["task"]["settings"])
    if name not in catalogue.names("task") or "file" in settings:
        return _Elsewhere()
    task: Task = catalogue.find("task", name, Task)(**settings)
    return task


class _Elsewhere(Task):
    """A task whose code does not travel with the artifact."""

    def model(self) -> nn.Module:
        """Raise BadArtifact."""
        raise BadArtifact(
            "its runtime rebuilds the model by the code of your task, which does not travel with "
            "it: pick a member in another runtime"
        )

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Raise BadArtifact."""
        raise BadArtifact("the data of your task does not travel with the artifact")

    def describe(self) -> dict[str, str]:
        """Return a name."""
        return {"name": "a task elsewhere"}
