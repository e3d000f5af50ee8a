"""Audit of a run: measure one member of its front again, and count how many intervals held."""

import contextlib
import dataclasses
import datetime
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from objectives import Ratio, wilson
from objectives.host import others, processor
from search import run_folder
from search.errors import BadRun
from search.experiment import Experiment
from search.measuring import MeasurementServer
from search.records import Record
from search.result import Result, load_result
from search.study import reference_of
from search.trust.again import Timed, ratios

FILE = "audits.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
    """One objective of one member, measured again."""

    date: str
    trial: int
    objective: str
    recorded: Ratio
    """Ratio to the baseline as recorded, with the interval that is put to the test."""
    measured: Ratio
    """Ratio to the baseline now."""
    machine: str
    others: float
    """Share of the CPU that other processes used just before, from 0 to 1."""

    @property
    def inside(self) -> bool:
        """True if the new ratio lies in the recorded interval."""
        return self.recorded.low <= self.measured.value <= self.recorded.high

    def to_json(self) -> dict[str, Any]:
        """Return the audit as plain data."""
        return dataclasses.asdict(self) | {"inside": self.inside}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the audit that `to_json` described; raises KeyError or TypeError for others."""
        fields = {k: v for k, v in data.items() if k != "inside"}
        pair = {k: Ratio(**fields[k]) for k in ("recorded", "measured")}
        return cls(**{**fields, **pair})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audits:
    """The audits of a run so far; the latest ones are of one member."""

    latest: tuple[Audit, ...]
    all: tuple[Audit, ...]

    @property
    def held(self) -> int:
        """Number of recorded intervals that held the new ratio."""
        return sum(a.inside for a in self.all)

    @property
    def coverage(self) -> tuple[float, float, float]:
        """Share of the intervals that held, and its 95 % interval (Wilson 1927)."""
        share = self.held / len(self.all)
        return share, *wilson(share, len(self.all))


def audit(folder: str | Path, *, seed: int | None = None) -> Audits:
    """Time one member of a run's front again, in turns with its baseline, and keep the outcome.

    The member is drawn at random, by `seed` if given. An interval is for the ratio to the baseline
    that as many processes see at another time; 95 % of them should hold. Raises BadRun if no
    member was timed, or if the run is in use.
    """
    folder = Path(folder)
    result, experiment = load_result(folder), run_folder.reopen(folder)
    member = _drawn(result, seed)
    reference = reference_of(experiment, result.records) or result.baseline
    records = [result.baseline, member, reference]
    with run_folder.locked(folder):
        load = others()
        measured = _ratios(folder, experiment, records)
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        latest = tuple(
            Audit(
                date=date,
                trial=member.trial,
                objective=name,
                recorded=recorded,
                measured=measured[name],
                machine=processor(),
                others=round(load, 2),
            )
            for name, recorded in _recorded(member).items()
        )
        with (folder / FILE).open("a") as file:
            file.writelines(f"{json.dumps(a.to_json(), allow_nan=False)}\n" for a in latest)
        return Audits(latest=latest, all=tuple(read_audits(folder)))


def read_audits(folder: Path) -> list[Audit]:
    """Return the audits of a run, the oldest first; raises BadRun if they cannot be read."""
    path = folder / FILE
    try:
        lines = path.read_text().splitlines() if path.is_file() else []
        return [Audit.from_json(json.loads(line)) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise BadRun(f"{path} cannot be read: {error}") from error


def _drawn(result: Result, seed: int | None) -> Record:
    """Return a member of the front that was timed, at random."""
    timed = [r for r in result.front if _recorded(r) and r.trial != result.baseline.trial]
    if not timed:
        raise BadRun(f"no member of the front of {result.folder} has a time to audit")
    return random.Random(seed).choice(timed)


def _recorded(member: Record) -> dict[str, Ratio]:
    return {name: m.ratio for name, m in member.measurements.items() if m.ratio is not None}


def _ratios(folder: Path, experiment: Experiment, records: Sequence[Record]) -> dict[str, Ratio]:
    """Return the ratios of the second record to the first, which all take turns."""
    artifacts = list(dict.fromkeys(Timed.of(folder, record) for record in records))
    with contextlib.closing(MeasurementServer(print_traces=False)) as server:
        return ratios(server, experiment, artifacts, folder / "cache" / "data")[1]
