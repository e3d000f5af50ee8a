"""Steps from the baseline to a pick, one technique at a time: what each change does to the time."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Ratio
from search.evaluation.context import TrialContext
from search.evaluation.trial import Trial
from search.experiment import Experiment, timed
from search.measuring import Crashed, MeasurementServer
from search.records import Record, Step
from spaces import Infeasible, Point, Space, encode, sentence

SECONDS = 10.0
"""Seconds after which the steps to no further pick are measured."""
BUILDS = 4
"""Most candidates that are built for one pick."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stair:
    """A point on the way, and the change that leads to it."""

    change: str
    point: Point


def way(space: Space, start: Point, end: Point, runtime: str | None) -> list[Stair]:
    """Return the points from `start` to `end`, each with one more technique as at `end`.

    The runtime changes first, then the shape, then the number formats, then the devices, as one
    would try them by hand. `runtime` is the name of the runtime's dimension. Techniques that change
    nothing in an artifact without training are left out.
    """
    chooses_runtime = (runtime or "").rpartition(".")[0]
    slots = sorted(space.slots, key=lambda s: (s.name != chooses_runtime, s.base.stage))
    stairs: list[Stair] = []
    point = dict(start)
    for slot in slots:
        names = [f"{slot.name}.{field}" for field in slot.ranges]
        after = point | {name: end[name] for name in names if name in end}
        if _artifact(space, after) != _artifact(space, point):
            change = slot.at(after).short(slot.ranges) or f"{slot.name} off"
            if slot.name == chooses_runtime:
                change = f"{space.plan(point).runtime} → {space.plan(after).runtime}"
            stairs.append(Stair(change=change, point=after))
            point = after
    return stairs


def _artifact(space: Space, point: Point) -> str:
    """Return what determines the speed of an untrained artifact, as text."""
    plan = space.plan(point)
    encoding = dataclasses.replace(plan.encoding, coding="none")
    parts = [space.shape(point), plan.runtime, encode(encoding), encode(plan.placement)]
    return json.dumps(parts, sort_keys=True, default=encode)


def measure(
    experiment: Experiment, job: Mapping[str, Any], server: MeasurementServer
) -> dict[str, Any]:
    """Return {trial: [step, ...]} for the members of the job, as plain data.

    The first of the job's records is the baseline. Members whose artifacts are shared by several
    devices, and those for which no time is left, have no entry.
    """
    records = [Record.from_json(r) for r in job["records"]]
    context = TrialContext(
        experiment=experiment,
        folder=Path(job["run"]),
        trial=-1,
        server=server,
        progress=lambda stage, done, of, detail: None,
    )
    climb = _Climb(experiment=experiment, context=context, records=records)
    end = time.monotonic() + SECONDS
    answers: dict[str, Any] = {}
    for member in (Record.from_json(r) for r in job["members"]):
        if time.monotonic() > end:
            break
        if steps := climb.steps(member):
            answers[str(member.trial)] = [dataclasses.asdict(step) for step in steps]
    return answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Climb:
    """Artifacts of a run, and the means to build further ones."""

    experiment: Experiment
    context: TrialContext
    records: Sequence[Record]

    def steps(self, member: Record) -> list[Step]:
        """Return the steps from the baseline to a member; empty if there are none to measure."""
        space, baseline = self.experiment.space, self.records[0]
        objective = next(iter(timed(self.experiment.objectives)), None)
        runtime = space.named("runtime")
        stairs = way(space, baseline.point, member.point, runtime)
        if objective is None or not stairs or space.plan(member.point).placement.count > 1:
            return []
        folders, steps = [self.context.folder / str(baseline.artifact)], list[Step]()
        scratch = self.context.folder / "artifacts" / "steps"
        try:
            for step, folder in self._built(stairs, member, objective, scratch):
                steps.append(step)
                folders += [folder] if folder else []
            return self._timed(steps, folders, objective)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _built(
        self, stairs: Sequence[Stair], member: Record, objective: str, scratch: Path
    ) -> Iterator[tuple[Step, Path | None]]:
        """Yield each step, not yet timed, with the folder of its artifact; None if it has none."""
        builds = 0
        for number, stair in enumerate(stairs):
            last = number == len(stairs) - 1
            record = member if last else self._record(stair.point)
            step = Step(change=stair.change, objective=objective)
            if record is not None:
                folder = self.context.folder / str(record.artifact)
                yield dataclasses.replace(step, trial=record.trial), folder
                continue
            folder, reason = scratch / str(number), "too many candidates would have to be built"
            if builds < BUILDS:
                builds, reason = builds + 1, self._build(stair.point, folder) or ""
            yield dataclasses.replace(step, reason=reason or None), None if reason else folder

    def _record(self, point: Point) -> Record | None:
        """Return the first record whose artifact executes as that of a point, if there is one."""
        wanted, space = _artifact(self.experiment.space, point), self.experiment.space
        return next((r for r in self.records if _artifact(space, r.point) == wanted), None)

    def _build(self, point: Point, folder: Path) -> str | None:
        """Build a candidate without training; return the reason if it cannot be built."""
        try:
            Trial(self.context, point).export_untrained(folder)
        except Infeasible as error:
            return sentence(str(error))
        return None

    def _timed(self, steps: Sequence[Step], folders: Sequence[Path], objective: str) -> list[Step]:
        """Return the steps with the ratios of their artifacts, all measured in turns."""
        try:
            ratios = self.context.server.chain(
                self.experiment, folders, data=self.context.cache / "data"
            )
        except (Crashed, Infeasible) as error:
            return [s if s.reason else dataclasses.replace(s, reason=str(error)) for s in steps]
        left = [ratio[objective] for ratio in ratios]
        timed_steps = []
        for step in steps:
            if step.reason is None:
                m = left.pop(0)
                ratio = Ratio(value=m.value, low=m.low, high=m.high)
                step = dataclasses.replace(step, ratio=ratio)
            timed_steps.append(step)
        return timed_steps
