"""Comparison of the fronts of two runs on one scale."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from objectives import Measurement, Ratio
from search import run_folder
from search.errors import BadRun
from search.experiment import Experiment, timed
from search.measuring import MeasurementServer
from search.records import Axis, Record, dominates, hypervolume_history, membership
from search.result import Result, load_result
from search.trust.again import Timed, ratios

GROUP = 6
"""Artifacts timed in turns in one process beside the baseline, to bound the memory."""
BY_OWN_BASELINE = (
    "times are ratios to each run's own baseline, as recorded: {reason}; artifacts whose gains are "
    "close were not compared directly"
)
OTHER_RUNTIME = (
    "the baselines run in {first} and {second}, so gains of the two runs are relative to different "
    "times"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A member of one of the fronts, with its values on the common scale."""

    run: str
    """"A" for the first run, "B" for the second."""
    record: Record
    """Its times are those of the first run's baseline times the ratios to it."""
    on_union: bool
    """True if no member of either run dominates it beyond noise."""
    dominated_by: tuple[str, ...]
    """Members of the other run that dominate it beyond noise: run and trial, as "B12"."""

    @property
    def name(self) -> str:
        """Run and trial, as "A12"."""
        return f"{self.run}{self.record.trial}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two fronts on one scale."""

    runs: Mapping[str, str]
    """Run folders by the letters "A" and "B"."""
    axes: tuple[Axis, ...]
    baseline: Record
    """The first run's baseline, to which all gains are relative."""
    rows: tuple[Row, ...]
    hypervolumes: Mapping[str, float]
    """Hypervolumes of the fronts "A" and "B", and of their union; the baseline alone has 1."""
    warnings: tuple[str, ...]
    """What limits the comparison; empty if the members of both runs were timed in turns for it."""


def compare(
    first: str | Path, second: str | Path, *, say: Callable[[str], None] = lambda line: None
) -> Comparison:
    """Return the fronts of two runs on one scale: that of the first run's baseline.

    If both runs keep their artifacts, all members are timed again, in turns with that baseline.
    Otherwise each is placed by the recorded ratio to its own baseline, with a warning. Times of
    different runs are never compared as such. `say` is called with a line before artifacts are
    timed. Raises BadRun if the runs differ in task, target or objectives.
    """
    folders = {"A": Path(first), "B": Path(second)}
    experiments = {letter: run_folder.reopen(folder) for letter, folder in folders.items()}
    for difference in _differences(folders, experiments):
        raise BadRun(f"{first} and {second} cannot be compared: {difference}")
    results = {letter: load_result(folder) for letter, folder in folders.items()}
    members = {letter: _members(result) for letter, result in results.items()}
    baseline, experiment = results["A"].baseline, experiments["A"]
    warnings: list[str] = []
    try:
        artifacts = {
            letter: [Timed.of(folders[letter], r) for r in members[letter]] for letter in folders
        }
        ruler = Timed.of(folders["A"], baseline)
        count = sum(map(len, artifacts.values()))
        say(f"timing {count} artifacts in turns with the baseline of {first}")
        placed = _in_turns(experiment, ruler, baseline, members, artifacts)
    except BadRun as error:
        warnings.append(BY_OWN_BASELINE.format(reason=error))
        placed = _by_own_baselines(experiment, results, members)
        runtimes = [results[letter].baseline.runtime for letter in folders]
        if runtimes[0] != runtimes[1]:
            warnings.append(OTHER_RUNTIME.format(first=runtimes[0], second=runtimes[1]))
    judged = {k: [_judged(experiment, r, baseline) for r in v] for k, v in placed.items()}
    return _comparison(folders, results["A"].axes, baseline, judged, warnings)


def _members(result: Result) -> list[Record]:
    if not result.front:
        raise BadRun(f"{result.folder} has no front: no complete trial satisfies every limit")
    return list(result.front)


def _differences(
    folders: Mapping[str, Path], experiments: Mapping[str, Experiment]
) -> Iterator[str]:
    """Yield reasons why the values of two runs are on different scales."""
    a, b = (experiments[letter] for letter in "AB")
    objectives = [
        [(g.name, type(g.objective).__name__, g.objective.unit) for g in e.objectives]
        for e in (a, b)
    ]
    if objectives[0] != objectives[1]:
        names = [", ".join(name for name, _, _ in each) for each in objectives]
        yield f"their objectives are {names[0]} and {names[1]}"
    if a.target != b.target:
        yield f"their targets are {a.target} and {b.target}"
    origins = [
        (run_folder.read_environment(f) or {}).get("made_from", {}) for f in folders.values()
    ]
    if all(origins):
        for key, what in (("weights", "models have different weights"), ("samples", "data differ")):
            if origins[0][key] != origins[1][key]:
                yield f"their {what}"
    elif a.task != b.task:
        yield f"their tasks are {a.task} and {b.task}"


def _in_turns(
    experiment: Experiment,
    ruler: Timed,
    baseline: Record,
    members: Mapping[str, Sequence[Record]],
    artifacts: Mapping[str, Sequence[Timed]],
) -> dict[str, list[Record]]:
    """Return the members with times that follow from ratios to the baseline, taken in turns now.

    A member whose artifact is the baseline's has its values.
    """
    flat = [
        (letter, record, artifact)
        for letter in members
        for record, artifact in zip(members[letter], artifacts[letter], strict=True)
    ]
    values = {k: baseline.measurements[k].value for k in timed(experiment.objectives)}
    placed: dict[str, list[Record]] = {letter: [] for letter in members}
    with (
        tempfile.TemporaryDirectory() as data,
        contextlib.closing(MeasurementServer(print_traces=False)) as server,
    ):
        for start in range(0, len(flat), GROUP):
            group = flat[start : start + GROUP]
            turns = list(dict.fromkeys([ruler, *(artifact for _, _, artifact in group)]))
            found = dict(
                zip(turns, ratios(server, experiment, turns, Path(data)), strict=True)
                if values
                else ((t, {}) for t in turns)
            )
            for letter, record, artifact in group:
                new = {
                    name: _scaled(record.measurements[name], values[name], ratio)
                    for name, ratio in found[artifact].items()
                }
                placed[letter].append(
                    dataclasses.replace(record, measurements=record.measurements | new)
                )
    return placed


def _by_own_baselines(
    experiment: Experiment,
    results: Mapping[str, Result],
    members: Mapping[str, Sequence[Record]],
) -> dict[str, list[Record]]:
    """Return the members with times that follow from the recorded ratios to their own baselines."""
    base = results["A"].baseline.measurements

    def placed(record: Record, own: Record) -> Record:
        new = {}
        for name in timed(experiment.objectives):
            m = record.measurements[name]
            if m.ratio is None:  # the baseline itself
                m = m.beside(own.measurements[name].value)
            assert m.ratio is not None
            new[name] = _scaled(m, base[name].value, m.ratio)
        return dataclasses.replace(record, measurements=record.measurements | new)

    return {k: [placed(r, results[k].baseline) for r in members[k]] for k in members}


def _scaled(measurement: Measurement, value: float, ratio: Ratio) -> Measurement:
    """Return a measurement at a ratio to a value."""
    ends = {k: value * getattr(ratio, k) for k in ("value", "low", "high")}
    return dataclasses.replace(measurement, ratio=ratio, **ends)


def _judged(experiment: Experiment, record: Record, baseline: Record) -> Record:
    """Return a record with its violations of the experiment's limits on the common scale."""
    limits = {
        name: violation
        for goal in experiment.objectives
        for name, violation in goal.violations(
            record.measurements[goal.name].value, baseline.measurements[goal.name].value
        ).items()
    }
    return dataclasses.replace(record, limits=limits)


def _comparison(
    folders: Mapping[str, Path],
    axes: tuple[Axis, ...],
    baseline: Record,
    members: Mapping[str, Sequence[Record]],
    warnings: Sequence[str],
) -> Comparison:
    everything = [record for records in members.values() for record in records]
    union = membership([dataclasses.replace(r, trial=i) for i, r in enumerate(everything)], axes)
    numbers = {*union.members, *(number for tied in union.ties.values() for number in tied)}
    on_union = {_key(everything[number]) for number in numbers}
    rows = [
        Row(
            run=letter,
            record=record,
            on_union=_key(record) in on_union,
            dominated_by=tuple(
                f"{other}{rival.trial}"
                for other in members
                for rival in members[other]
                if other != letter
                and _key(rival) != _key(record)
                and dominates(rival, record, axes)
            ),
        )
        for letter, records in members.items()
        for record in records
    ]
    return Comparison(
        runs={letter: str(folder) for letter, folder in folders.items()},
        axes=axes,
        baseline=baseline,
        rows=tuple(rows),
        hypervolumes={
            name: hypervolume_history(records, axes, baseline)[-1]
            for name, records in {**members, "union": everything}.items()
        },
        warnings=tuple(warnings),
    )


def _key(record: Record) -> str:
    """Return what copies of one artifact share: whatever tells them apart is noise."""
    return record.facts.identity or str(id(record))
