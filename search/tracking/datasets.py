"""Data of a study as MLflow's data sets: one for each split, by the digest of its first samples."""

import json
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag

from search import run_folder


def inputs(name: str, folder: Path) -> list[DatasetInput]:
    """Return the splits whose digests a run folder has; `name` is the study's."""
    origin = (run_folder.read_environment(folder) or {}).get("made_from", {})
    source = json.dumps({"folder": str(folder)})
    return [
        DatasetInput(
            Dataset(f"{name} {split}", digest, "local", source),
            [InputTag("mlflow.data.context", split)],
        )
        for split, digest in origin.get("samples", {}).items()
        if digest
    ]
