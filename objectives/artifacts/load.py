"""Artifacts loaded afresh, by their runtimes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives.artifacts.manifest import manifest_of, placement_of
from objectives.artifacts.signature import signature_from
from objectives.placement import Job, Placed
from objectives.runtime import Program, Runtime
from objectives.target import Target
from spaces import Encoding, Task


def load(
    folder: Path,
    runtime: Runtime,
    task: Task,
    *,
    apart: bool = False,
    strategy: str | None = None,
) -> Program:
    """Load an artifact afresh, its files checked first.

    On several devices, or if `apart` is asked for, it is loaded in processes of its own.
    `strategy` is how devices share the work instead of what the manifest says, such as what was
    decided when it was loaded before.
    """
    manifest = manifest_of(folder)
    encoding = _encoding_of(manifest)
    job = Job(
        folder=folder,
        runtime=runtime,
        task=task,
        signature=signature_from(manifest),
        target=Target(**manifest["target"]),
        notes=manifest["notes"],
        quantized=encoding.quantized or encoding.dtype == "float8",
        coded=encoding.coding != "none",
    )
    placement = placement_of(folder)
    if strategy is not None:
        placement = dataclasses.replace(placement, strategy=strategy)
    return Placed(job, placement) if apart or placement.count > 1 else job.load()


def _encoding_of(manifest: Mapping[str, Any]) -> Encoding:
    # manifests of format 1 may say how bits were allocated, which executing them does not need
    return Encoding(**{k: v for k, v in manifest["encoding"].items() if k != "latency"})
