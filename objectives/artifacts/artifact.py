"""An artifact on disk: a runtime's files and a manifest that says what they are."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from objectives.exporting import code_files
from objectives.placement import Job, Placed
from objectives.runtime import Export, Program, Runtime, Signature
from objectives.target import Target
from spaces import Encoding, Placement, Task
from spaces.modules import call, flatten, names

MANIFEST = "manifest.json"
FORMAT = 1
PACKAGES = ("torch", "torch-pruning", "onnx", "onnxruntime", "openvino", "nncf", "torchao", "numpy")


class Altered(Exception):
    """An artifact whose files are missing or are not those that its manifest lists."""


def signature_of(model: torch.nn.Module, inputs: Any, target: Target) -> Signature:
    """Return names, shapes and structure of `model`'s inputs and outputs for one full batch.

    Raises ValueError when outputs do not have one row per sample.
    """
    tensors, spec = flatten(inputs)
    with torch.inference_mode():
        leaves, structure = flatten(call(model, inputs))
    for leaf in leaves:
        if leaf.dim() == 0 or leaf.shape[0] != target.batch_size:
            raise ValueError(
                f"outputs must have the batch of {target.batch_size} in dimension 0, "
                f"got shape {list(leaf.shape)}; return per-sample outputs from forward"
            )
    return Signature(
        inputs=spec,
        input_names=_identifiers("input", names(spec)),
        input_shapes=tuple(tuple(t.shape) for t in tensors),
        input_types=tuple(str(t.dtype).removeprefix("torch.") for t in tensors),
        outputs=structure,
        output_names=_identifiers("output", names(structure)),
        output_shapes=tuple(tuple(t.shape) for t in leaves),
    )


def _identifiers(kind: str, leaves: list[str]) -> tuple[str, ...]:
    """Return ASCII identifiers: positions get `kind` in front."""
    cleaned = (re.sub(r"\W", "_", leaf, flags=re.ASCII) for leaf in leaves)
    return tuple(f"{kind}_{c}" if c[:1].isdigit() else c for c in cleaned)


def write(
    folder: Path, runtime_name: str, runtime: Runtime, export: Export, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Export into `folder` atomically: a draft folder, flushed, with the manifest last, renamed.

    `export.folder` is replaced by the draft; `facts` go into the manifest, which is returned.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        notes = runtime.export(dataclasses.replace(export, folder=draft))
        if export.encoding.coding != "none":
            code_files(draft)
        manifest = {
            "format": FORMAT,
            "runtime": runtime_name,
            "target": dataclasses.asdict(export.target),
            "encoding": dataclasses.asdict(export.encoding),
            "signature": dataclasses.asdict(export.signature),
            "notes": notes,
            "files": {str(p.relative_to(draft)): _entry(p) for p in _files(draft)},
            "versions": versions(),
            **facts,
        }
        write_json(draft / MANIFEST, manifest)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def annotate(folder: Path, **facts: Any) -> None:
    """Add facts, such as measurements, to an artifact's manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | facts)


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return an artifact's manifest, its files checked against their sha256.

    Raises Altered when the manifest or a file is missing, or a file's content differs.
    """
    path = folder / MANIFEST
    manifest = _read(path)
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise Altered(f"{path} names a file outside the artifact: {name}")
        if not file.is_file() or _entry(file) != entry:
            raise Altered(f"{file} is missing or was altered since it was exported")
    return manifest


def identity(manifest: Mapping[str, Any]) -> str:
    """Return what two artifacts share that a runtime executes alike: files, runtime, devices."""
    files = {name: entry["sha256"] for name, entry in sorted(manifest["files"].items())}
    whole = json.dumps([manifest["runtime"], files, manifest.get("placement")], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Altered(f"{path.parent} is not an artifact: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        manifest["files"]
    except (json.JSONDecodeError, KeyError) as error:
        raise Altered(f"{path} cannot be read: {error}") from error
    if manifest.get("format") != FORMAT:
        raise Altered(f"{path} has format {manifest.get('format')}, this version reads {FORMAT}")
    return manifest


def placement_of(folder: Path) -> Placement:
    """Return on how many devices an artifact runs; its files are not checked.

    Raises Altered when its manifest is missing or cannot be read.
    """
    return Placement(**_read(folder / MANIFEST).get("placement", {}))


def signature_from(manifest: Mapping[str, Any]) -> Signature:
    """Return the signature that a manifest holds."""
    fields = dict(manifest["signature"])
    for name in ("input_names", "input_types", "output_names"):
        fields[name] = tuple(fields[name])
    for name in ("input_shapes", "output_shapes"):
        fields[name] = tuple(tuple(shape) for shape in fields[name])
    return Signature(**fields)


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
    encoding = Encoding(**manifest["encoding"])
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


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that shape an artifact."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by strict JSON atomically, flushed to the disk."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with draft.open("w") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": file.stat().st_size}
