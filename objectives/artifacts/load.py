"""Load an artifact through its runtime, after its files are checked."""

import dataclasses
from pathlib import Path

from objectives.artifacts.manifest import encoding_from, manifest_of, placement_of
from objectives.artifacts.signature import signature_from
from objectives.placement import Job, PlacedProgram
from objectives.runtime import Program, Runtime
from objectives.target import Target
from objectives.work import Work
from spaces import Task


def load(
    folder: Path,
    runtime: Runtime,
    task: Task,
    *,
    apart: bool = False,
    strategy: str | None = None,
) -> Program:
    """Load an artifact after checking its files against the manifest.

    It is loaded in separate processes if it needs several devices or `apart` is true, otherwise in
    this one. `strategy` overrides the manifest's strategy of sharing work between devices, for
    example by the one that an earlier load chose. Raises Altered if the manifest or a file is
    missing or differs, Infeasible or DeviceFailed if separate processes cannot load it.
    """
    manifest = manifest_of(folder)
    encoding = encoding_from(manifest)
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
    separate = apart or placement.count > 1
    program: Program = PlacedProgram(job, placement) if separate else job.load()
    if work := manifest.get("work"):
        program.work = Work.from_json(work)
    return program
