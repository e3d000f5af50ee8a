"""Export a candidate to an artifact folder, complete or not at all."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives.artifacts.manifest import FORMAT, MANIFEST, file_entry
from objectives.artifacts.versions import versions
from objectives.artifacts.work import work_of
from objectives.exporting import compress_files
from objectives.host import new_folder, write_json
from objectives.runtime import Export, Runtime


def write(
    folder: Path, runtime_name: str, runtime: Runtime, export: Export, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Export a candidate into `folder` and return its manifest, to which `facts` are added.

    `export.folder` is ignored: files are written into a temporary folder, which is then moved to
    `folder`. Raises Infeasible if the runtime cannot export the model.
    """
    with new_folder(folder) as draft:
        notes = runtime.export(dataclasses.replace(export, folder=draft))
        if export.encoding.coding != "none":
            compress_files(draft)
        manifest = {
            "format": FORMAT,
            "runtime": runtime_name,
            "target": dataclasses.asdict(export.target),
            "encoding": dataclasses.asdict(export.encoding),
            "signature": dataclasses.asdict(export.signature),
            "notes": notes,
            "work": dataclasses.asdict(work_of(export)) if export.operations else None,
            "files": {str(p.relative_to(draft)): file_entry(p) for p in _files(draft)},
            "versions": versions(runtime),
            **facts,
        }
        write_json(draft / MANIFEST, manifest)
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
