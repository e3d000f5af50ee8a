"""Exchange experiments, artifacts and logs between machines that share no disk."""

import dataclasses
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from objectives.host import new_file
from search import catalogue
from search.experiment import Experiment

PACKAGES = ("search", "spaces", "objectives")
PRIVATE = (".git", ".env*", "*.pem", "id_*", "runs", "mlruns", "mlartifacts", "*.db", "__pycache__")
"""Files beside a task that are not sent to workers."""
MARK = ".shared"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workspace:
    """Locations of the experiment and of the results of a search, for its workers; plain data."""

    content: dict[str, Any]
    """The experiment as plain data."""
    folder: str
    """The experiment's folder on the driver's machine."""
    run: str
    """The run folder on the driver's machine."""
    key: str
    token: str
    """Content of a file in the run folder: a worker that reads it there shares the disk."""
    shared_by_all: bool

    @classmethod
    def of(cls, experiment: Experiment, run: Path, *, remote: bool) -> Self:
        """Return the workspace of a search, and write its token into the run folder."""
        token = uuid.uuid4().hex
        (run / MARK).write_text(token)
        return cls(
            content=experiment.to_json(),
            folder=str(experiment.folder),
            run=str(run.resolve()),
            key=f"{experiment.name}-{experiment.key}",
            token=token,
            shared_by_all=not remote,
        )

    @staticmethod
    def environment(experiment: Experiment) -> dict[str, Any]:
        """Return Ray's runtime environment: the user's folder and this project's packages."""
        return {
            "working_dir": str(experiment.folder),
            "excludes": list(PRIVATE),
            "py_modules": [str(catalogue.home(name)) for name in PACKAGES],
        }

    @property
    def depot(self) -> str:
        """Name of the actor that receives files from workers."""
        return f"paretune-depot-{self.token}"

    def local_folders(self) -> tuple[Experiment, Path, bool]:
        """Return the experiment, a run folder to work in, and True if it is the driver's own.

        On a machine without the driver's disk, Ray has put the user's files into the current
        folder, and the run folder is a temporary one that all workers of the machine share.
        """
        run = Path(self.run)
        mark = run / MARK
        if mark.is_file() and mark.read_text() == self.token:
            return Experiment.of(self.content, Path(self.folder)), run, True
        self.scratch.mkdir(parents=True, exist_ok=True)
        return Experiment.of(self.content, Path.cwd()), self.scratch, False

    @property
    def scratch(self) -> Path:
        """The run folder on a machine without the driver's disk."""
        return Path(tempfile.gettempdir()) / f"paretune-{self.key}-{self.token[:8]}"


def shipped(run: Path, trial: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a trial's artifact and its log as (name in the run folder, content)."""
    artifact, log = run / "artifacts" / str(trial), run / "logs" / f"{trial}.log"
    for file in (*sorted(artifact.rglob("*")), log):
        if file.is_file():
            yield str(file.relative_to(run)), file.read_bytes()


class Depot:
    """Actor that stores files of trials on the driver's machine, and returns them."""

    def __init__(self, run: str) -> None:
        self._run = Path(run)

    def put(self, name: str, content: bytes) -> None:
        """Store a file; its name is relative to the run folder and must stay inside of it."""
        file = (self._run / name).resolve()
        if not file.is_relative_to(self._run.resolve()):
            raise ValueError(f"{name} is not a file of the run folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as draft:
            draft.write_bytes(content)

    def get(self, trial: int) -> list[tuple[str, bytes]]:
        """Return the files of a trial."""
        return list(shipped(self._run, trial))
