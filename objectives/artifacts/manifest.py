"""Manifests of artifacts: read, annotate, check files against their sha256."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives.host import write_json
from spaces import Encoding, Placement

MANIFEST = "manifest.json"
FORMAT = 1


class Altered(Exception):
    """An artifact whose manifest or files are missing, or whose files differ from the manifest."""


def annotate(folder: Path, **facts: Any) -> None:
    """Add facts, such as measurements, to an artifact's manifest."""
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | facts)


def manifest_of(folder: Path) -> dict[str, Any]:
    """Return an artifact's manifest after checking its files against their sha256.

    Raises Altered if the manifest or a file is missing, or the content of a file differs.
    """
    path = folder / MANIFEST
    manifest = read(path)
    for name, entry in manifest["files"].items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise Altered(f"{path} names a file outside the artifact: {name}")
        if not file.is_file() or file_entry(file) != entry:
            raise Altered(f"{file} is missing or was altered since it was exported")
    return manifest


def identity(manifest: Mapping[str, Any]) -> str:
    """Return a hash of files, runtime and placement, equal for artifacts that execute alike."""
    files = {name: entry["sha256"] for name, entry in sorted(manifest["files"].items())}
    content = json.dumps([manifest["runtime"], files, manifest.get("placement")], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def size(manifest: Mapping[str, Any]) -> int:
    """Return the bytes of the files of an artifact, without its manifest."""
    return sum(entry["bytes"] for entry in manifest["files"].values())


def read(path: Path) -> dict[str, Any]:
    """Read a manifest file without checking the files that it lists.

    Raises Altered if it is missing, is not a manifest, or has an unknown format.
    """
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
    """Return an artifact's placement without checking its files.

    Raises Altered if its manifest is missing or cannot be read.
    """
    return Placement(**read(folder / MANIFEST).get("placement", {}))


def encoding_of(folder: Path) -> Encoding:
    """Return an artifact's encoding without checking its files; raises the errors of `read`."""
    return encoding_from(read(folder / MANIFEST))


def encoding_from(manifest: Mapping[str, Any]) -> Encoding:
    """Return the encoding in a manifest."""
    # format 1 may hold `latency`, a setting of bit allocation that execution does not need
    return Encoding(**{k: v for k, v in manifest["encoding"].items() if k != "latency"})


def file_entry(file: Path) -> dict[str, Any]:
    """Return the manifest's entry for a file: its sha256 and its size in bytes."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": file.stat().st_size}
