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
    size,
)
from objectives.artifacts.signature import described, signature_from, signature_of
from objectives.artifacts.versions import versions
from objectives.artifacts.work import work_of

__all__ = [
    "MANIFEST",
    "Altered",
    "annotate",
    "described",
    "encoding_of",
    "identity",
    "load",
    "manifest_of",
    "placement_of",
    "signature_from",
    "signature_of",
    "size",
    "versions",
    "work_of",
    "write",
]
