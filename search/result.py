"""Result of a search: its front, all its records, and artifacts to export."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import run_folder
from search.errors import BadEnvironment, BadRun
from search.handover import FILE, readme
from search.measuring import checked, runtime_of
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
        """Folder of the artifact."""
        return self.folder / str(self.record.artifact)

    def export(self, to: str | Path) -> Path:
        """Copy the artifact to a folder that is new or empty, and return that folder.

        A README.md beside its files tells what it is and how it runs without this package.
        The files are checked before and after. Raises BadRun if the folder is not empty,
        BadArtifact if files were altered, BadEnvironment if the folder cannot be written.
        """
        to = Path(to)
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            state = "is not empty" if to.is_dir() else "is not a folder"
            raise BadRun(f"{to} exists and {state}; choose another folder with --to")
        draft = to.with_name(f".{to.name}.{os.getpid()}.tmp")
        try:
            checked(self.artifact)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.artifact, draft)
            manifest = checked(draft)
            content = readme(self.record, manifest, runtime_of(draft, Path(manifest["folder"])))
            (draft / FILE).write_text(content, encoding="utf-8")
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
    """Result of a search, finished or not."""

    summary: Summary

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.summary.run_folder)

    @property
    def front(self) -> tuple[Record, ...]:
        """Non-dominated records within all limits, the fastest first."""
        return self.summary.front

    @property
    def baseline(self) -> Record:
        """Record of the unchanged model in the neutral runtime, to which gains are relative."""
        return self.summary.baseline

    @property
    def records(self) -> tuple[Record, ...]:
        """All records in the order of their trials."""
        return self.summary.records

    @property
    def confirmed(self) -> bool:
        """True if the front was measured again after the search, in turns with the baseline."""
        return self.summary.confirmed

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The objectives as axes of the front."""
        return self.summary.axes

    def to_frame(self) -> "pd.DataFrame":
        """Return all records as a data frame, one row each, with units in the column names."""
        from search.reporting import frame

        return frame.trials_frame(self.summary, self.records)

    def pick(self, how: str = "knee") -> Member:
        """Return one member: knee, fastest, smallest, most-accurate, an objective or trial=N.

        Raises UnknownName for any other word, SearchError if the front is empty.
        """
        record = pick(self.front, how, self.axes, self.baseline)
        return Member(record=record, folder=self.folder)

    def to_json(self) -> dict[str, Any]:
        """Return the content of front.json, with the run folder."""
        return self.summary.to_json() | {"run": self.summary.run_folder}

    def __str__(self) -> str:
        """Return the result in a few sentences."""
        return "\n".join(headline(self.summary))

    def _repr_html_(self) -> str:
        """Return the report as an HTML frame, for notebooks."""
        from html import escape

        from search.reporting import html

        page = escape(html.render(self.summary), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="900" '
            'style="border:0"></iframe>'
        )


def load_result(folder: Path) -> Result:
    """Return the result of a run folder, also of an unfinished search.

    Before the front is confirmed, the result is computed from the records so far. Raises BadRun if
    the folder has no run, or no measured baseline.
    """
    experiment = run_folder.reopen(folder)
    records = run_folder.read_records(folder)
    if (folder / run_folder.FRONT).is_file():
        baseline, members, confirmed = run_folder.read_front(folder)
        whole = {r.trial: r for r in records}  # with what front.json leaves out
        baseline = whole.get(baseline.trial, baseline)
        members = [whole.get(r.trial, r) for r in members]
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
