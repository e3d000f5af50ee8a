"""Subject of a measurement: the task, target and objectives, from an experiment or a manifest."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from objectives import Objective, Runtime, Target
from objectives.artifacts import MANIFEST, Altered, manifest_of
from search import catalogue
from search.errors import BadArtifact, BadTask
from search.experiment import Experiment, Goal, instantiate
from spaces import Task, decode, said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """Task, target and objectives for which artifacts are measured."""

    task: Task
    target: Target
    objectives: tuple[Goal, ...]
    folder: Path
    """Folder at which paths of the user's own entries start."""
    seed: int = 0

    @classmethod
    def of(cls, source: Mapping[str, Any]) -> Self:
        """Return the subject of an experiment, or of an artifact and optionally its task's file."""
        if "artifact" in source:
            file = Path(source["task"]) if "task" in source else None
            return cls.recorded(Path(source["artifact"]), file)
        experiment = Experiment.of(source["experiment"], Path(source["folder"]))
        return cls(
            task=experiment.task,
            target=experiment.target,
            objectives=experiment.objectives,
            folder=experiment.folder,
            seed=experiment.seed,
        )

    @classmethod
    def recorded(cls, artifact: Path, file: Path | None) -> Self:
        """Return the subject in an artifact's manifest; `file` is the task's file, if it was moved.

        Raises BadArtifact if the artifact was altered or its manifest is invalid, BadTask if the
        task's file is missing.
        """
        manifest = checked(artifact)
        try:
            folder = Path(manifest.get("folder", ""))
            catalogue.find("runtime", manifest["runtime"], Runtime, folder)
            goals = [
                Goal(name=name, objective=catalogue.find("objective", name, Objective)(**fields))
                for name, fields in manifest["objectives"].items()
            ]
            target = Target(**manifest["target"])
            return cls(
                task=_task_of(manifest, file),
                target=target,
                objectives=tuple(goals),
                folder=folder,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadArtifact(
                f"the manifest of {artifact} is not one of this version: {said(error)}; "
                "search again, or measure it with the version that made it"
            ) from error


def runtime_of(artifact: Path, folder: Path) -> Runtime:
    """Return the runtime of an artifact; paths in its name start at `folder`.

    Raises BadArtifact if the artifact was altered.
    """
    return catalogue.find("runtime", checked(artifact)["runtime"], Runtime, folder)()


def _task_of(manifest: Mapping[str, Any], file: Path | None) -> Task:
    """Return the task from which an artifact was made, in `file` if given."""
    name, settings = manifest["task"]["name"], dict(manifest["task"]["settings"])
    if file is not None and "file" not in settings:
        raise BadTask(
            f"the artifact's task {name!r} has no file of its own: measure without --task"
        )
    if file is not None:
        settings["file"] = str(file.resolve())
    place = decode(settings.get("file"))
    if place is not None and not Path(place).is_file():
        raise BadTask(f"the artifact's task is not at {place}; say where with --task FILE")
    kind = catalogue.find("task", name, Task)
    task: Task = instantiate(kind, f"task.{name}", settings)
    return task


def checked(artifact: Path) -> dict[str, Any]:
    """Return an artifact's manifest; raises BadArtifact if its files were altered."""
    try:
        return manifest_of(artifact)
    except Altered as error:
        raise BadArtifact(str(error)) from error
    except (TypeError, AttributeError) as error:
        raise BadArtifact(f"{artifact / MANIFEST} is not a manifest: {said(error)}") from error
