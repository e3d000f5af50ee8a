"""Artifacts: exported files with a manifest, written whole or not at all."""

from objectives.artifacts.artifact import (
    MANIFEST,
    Altered,
    annotate,
    identity,
    load,
    manifest_of,
    placement_of,
    signature_of,
    versions,
    write,
    write_json,
)

__all__ = [
    "MANIFEST",
    "Altered",
    "annotate",
    "identity",
    "load",
    "manifest_of",
    "placement_of",
    "signature_of",
    "versions",
    "write",
    "write_json",
]
