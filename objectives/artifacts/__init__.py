"""Artifacts: a candidate's exported files with a manifest, written and loaded."""

from objectives.artifacts.export import write
from objectives.artifacts.load import load
from objectives.artifacts.manifest import (
    MANIFEST,
    Altered,
    annotate,
    encoding_of,
    identity,
    manifest_of,
    placement_of,
)
from objectives.artifacts.signature import signature_of
from objectives.artifacts.versions import versions

__all__ = [
    "MANIFEST",
    "Altered",
    "annotate",
    "encoding_of",
    "identity",
    "load",
    "manifest_of",
    "placement_of",
    "signature_of",
    "versions",
    "write",
]
