"""What came out of a search, for Python: the front, all records, and artifacts to take."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import run_folder
from search.errors import BadEnvironment, BadRun
from search.measuring import checked
from search.records import Axis, Record, front, pick
from search.reporting import Summary, headline, summary_of

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A member of a front, with its artifact."""

    record: Record
    folder: Path
    """The run folder."""

    @property
    def artifact(self) -> Path:
        """Folder of the artifact in the run folder."""
        return self.folder / str(self.record.artifact)

    def export(self, to: str | Path) -> Path:
        """Copy the artifact, checked, to a folder that does not exist or is empty; return it.

        Raises BadRun when the folder is in use, BadArtifact when files were altered.
        """
        to = Path(to)
        if to.exists() and any(to.iterdir()):
            raise BadRun(f"{to} exists and is not empty; choose another folder with --to")
        draft = to.with_name(f".{to.name}.{os.getpid()}.tmp")
        try:
            checked(self.artifact)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.artifact, draft)
            checked(draft)
            if to.exists():
                to.rmdir()
            draft.replace(to)
        except OSError as error:
            raise BadEnvironment(f"{to} cannot be written: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What is known of a run."""

    summary: Summary

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.summary.run_folder)

    @property
    def front(self) -> tuple[Record, ...]:
        """The non-dominated records within all limits, the fastest first."""
        return self.summary.front

    @property
    def baseline(self) -> Record:
        """The unchanged model in the neutral runtime: what gains are relative to."""
        return self.summary.baseline

    @property
    def records(self) -> tuple[Record, ...]:
        """All records in the order of their trials."""
        return self.summary.records

    @property
    def confirmed(self) -> bool:
        """Whether the front was measured again, in turns with the baseline, after the search."""
        return self.summary.confirmed

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The objectives as the front sees them."""
        return self.summary.axes

    def to_frame(self) -> "pd.DataFrame":
        """Return all records as a data frame, one row each, units in the column names."""
        from search.reporting import frame

        return frame.trials_frame(self.summary, self.records)

    def pick(self, how: str = "knee") -> Member:
        """Return one member: knee, fastest, smallest, most-accurate, an objective or trial=N.

        Raises UnknownName for any other word, SearchError when the front is empty.
        """
        record = pick(self.front, how, self.axes, self.baseline)
        return Member(record=record, folder=self.folder)

    def to_json(self) -> dict[str, Any]:
        """Return the content of front.json, with the run folder."""
        return self.summary.to_json() | {"run": self.summary.run_folder}

    def __str__(self) -> str:
        """Return what came out in a few sentences."""
        return "\n".join(headline(self.summary))

    def _repr_html_(self) -> str:
        """Return the report in a frame of its own, for notebooks."""
        from html import escape

        from search.reporting import html

        page = escape(html.render(self.summary), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="900" '
            'style="border:0"></iframe>'
        )


def stored(folder: Path) -> Result:
    """Return the result of a run folder, as far as its search has come.

    Before the front was confirmed it is that of the records so far. Raises BadRun where there is
    no run, or none of its baselines has been measured.
    """
    experiment = run_folder.reopen(folder)
    records = run_folder.read_records(folder)
    if (folder / run_folder.FRONT).is_file():
        baseline, members, confirmed = run_folder.read_front(folder)
    else:
        axes = [Axis.of(g.name, g.objective) for g in experiment.objectives]
        complete = [r for r in records if r.state == "complete"]
        if not complete:
            raise BadRun(
                f"{folder} has no result yet: the unchanged model has not been measured; continue "
                f"with python -m search resume {folder}"
            )
        baseline, members, confirmed = complete[0], front(records, axes), False
    return Result(
        summary=summary_of(
            experiment,
            folder,
            "",
            records or [baseline, *members],
            members,
            baseline,
            confirmed=confirmed,
        )
    )
