"""The experiment: what is asked, checked in one place, whether it is written in TOML or in code."""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objectives import Runtime, Target
from search import catalogue
from search.errors import BadExperiment, UnknownName
from search.experiment import reading
from search.experiment.goals import Goal, goals_of, settings_of
from spaces import Dimension, Interval, Slot, Space, Task, Unreachable

MAX_TRIALS = 100_000
BUDGET = ("name", "trials", "time", "trial_time", "executor")
"""Keys that may change while a run goes on: they do not decide what a record means."""


@dataclasses.dataclass(frozen=True)
class NamedEntry:
    """An entry of a catalogue with settings; its class is found where it is used."""

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, key: str, given: Any) -> "NamedEntry":
        """Return what "tpe" or {"tpe": {...}} names; raises BadExperiment."""
        if isinstance(given, NamedEntry):
            return given
        if isinstance(given, str):
            return cls(given)
        if isinstance(given, Mapping) and len(given) == 1:
            ((name, settings),) = given.items()
            if isinstance(settings, Mapping):
                return cls(name, dict(settings))
        raise BadExperiment(f"{key} must be a name or one table [{key}.NAME], got {given!r}")

    def to_json(self) -> Any:
        """Return what `of` takes."""
        return {self.name: dict(self.settings)} if self.settings else self.name


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Experiment:
    """Everything that one search needs to know."""

    task: Task
    target: Target
    space: Space
    objectives: tuple[Goal, ...]
    name: str
    seed: int
    trials: int
    time: float | None
    """Seconds after which no trial is started; None is without a limit."""
    trial_time: float
    """Seconds after which a trial is killed."""
    sampler: NamedEntry
    executor: NamedEntry | None
    """Where trials run; None is this machine, one at a time."""
    folder: Path
    """The folder to which relative paths refer."""
    notices: tuple[str, ...] = dataclasses.field(compare=False)
    """What was added to what the user wrote, one line each."""
    text: str | None = dataclasses.field(compare=False)
    """The TOML in which it was written, for whoever reads the run folder."""

    def __init__(
        self,
        *,
        task: Task | Mapping[str, Any],
        space: Space | Mapping[str, Any],
        objectives: Sequence[Goal] | Mapping[str, Any],
        target: Target | Mapping[str, Any] | None = None,
        name: str = "experiment",
        seed: int = 0,
        trials: int = 40,
        time: float | str | None = None,
        trial_time: float | str = "15m",
        sampler: NamedEntry | str | Mapping[str, Any] = "tpe",
        executor: NamedEntry | str | Mapping[str, Any] | None = None,
        folder: Path | None = None,
        notices: Sequence[str] = (),
        text: str | None = None,
    ) -> None:
        """Check the parts, each given as it is or as a table; raises SearchError in one line.

        A table has the form that it has in TOML: `{"prune.channels": {"ratio": [0, 0.3, 0.6]}}`
        is a space, `{"accuracy": {"within": "2%"}, "latency": {}}` are objectives.
        """
        folder = (folder or Path()).resolve()
        if not isinstance(space, Space):
            space, added = reading.space_from(space, folder)
            notices = (*notices, *added)
        goals = objectives
        if isinstance(goals, Mapping):
            goals = goals_of(reading.table("objectives", goals), folder)
        parts = {
            "task": task if isinstance(task, Task) else reading.task_from(task, folder),
            "target": target if isinstance(target, Target) else reading.target_from(target or {}),
            "space": space,
            "objectives": tuple(goals),
            "name": reading.name_from(name),
            "seed": reading.integer("seed", seed, low=0),
            "trials": reading.integer("trials", trials, low=1, high=MAX_TRIALS),
            "time": None if time is None else reading.duration(time),
            "trial_time": reading.duration(trial_time),
            "sampler": NamedEntry.of("sampler", sampler),
            "executor": None if executor is None else NamedEntry.of("executor", executor),
            "folder": folder,
            "notices": tuple(notices),
            "text": text,
        }
        for key, value in parts.items():
            object.__setattr__(self, key, value)

    @classmethod
    def load(cls, path: Path) -> "Experiment":
        """Read and check an experiment file; raises SearchError in one line."""
        if not path.is_file():
            raise BadExperiment(
                f"no experiment at {path}; give the path of a TOML file, or --task task.py"
            )
        return cls.parse(path.read_text(), path.resolve().parent, default_name=path.stem)

    @classmethod
    def parse(cls, text: str, folder: Path, default_name: str = "experiment") -> "Experiment":
        """Check the text of an experiment; raises SearchError in one line."""
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadExperiment(f"the experiment is not valid TOML: {error}") from error
        return cls.of({"name": default_name} | content, folder, text=text)

    @classmethod
    def of(
        cls, content: Mapping[str, Any], folder: Path, *, text: str | None = None
    ) -> "Experiment":
        """Return the experiment of a plain table, such as `to_json` returns.

        Relative paths start at `folder`. Raises SearchError in one line.
        """
        known = [f.name for f in dataclasses.fields(cls) if f.name not in _HIDDEN]
        for key in content:
            if key not in known:
                raise UnknownName("key of an experiment", key, known)
        for key in ("task", "space", "objectives"):
            reading.table(key, content.get(key))
        return cls(**content, folder=folder, text=text)

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as plain data, paths inside of its folder relative to it.

        Raises BadExperiment where another process could not import a class of the user's.
        """
        try:
            return {
                "name": self.name,
                "seed": self.seed,
                "trials": self.trials,
                **({} if self.time is None else {"time": self.time}),
                "trial_time": self.trial_time,
                "task": self._task(self.folder),
                "target": dataclasses.asdict(self.target),
                "space": {slot.name: _slot(slot, self.folder) for slot in self.space.slots},
                "objectives": {g.name: g.to_json(self.folder) for g in self.objectives},
                "sampler": self.sampler.to_json(),
                **({} if self.executor is None else {"executor": self.executor.to_json()}),
            }
        except (Unreachable, TypeError) as error:
            raise BadExperiment(f"the experiment cannot be handed to trials: {error}") from error

    @property
    def key(self) -> str:
        """A short hash of what decides the meaning of a record: all but budget and name."""
        content = {k: v for k, v in self.to_json().items() if k not in BUDGET}
        text = json.dumps([content, str(self.folder)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def runtime(self, name: str) -> Runtime:
        """Return the runtime of a name."""
        return catalogue.find("runtime", name, Runtime, self.folder)()

    def runtime_names(self) -> tuple[str, ...]:
        """Return the runtimes that a point may name, the neutral one first."""
        neutral = self.space.plan(self.space.neutral()).runtime
        dimension = self.space.dimensions().get(self.space.named("runtime") or "")
        values = dimension.values() if dimension else None
        others = [str(v) for v in values or () if v != neutral]
        return (neutral, *others)

    def provenance(self) -> dict[str, Any]:
        """Return what a manifest says of the task and the objectives, with absolute paths."""
        ((name, settings),) = self._task(None).items()
        return {
            "task": {"name": name, "settings": settings},
            "objectives": {
                catalogue.name_of("objective", type(g.objective)): settings_of(g.objective)
                for g in self.objectives
            },
        }

    def _task(self, folder: Path | None) -> dict[str, Any]:
        name = catalogue.name_of("task", type(self.task), folder)
        return {name: settings_of(self.task, folder)}


_HIDDEN = ("folder", "notices", "text")


def _slot(slot: Slot, folder: Path) -> dict[str, Any]:
    """Return a technique's table: its searched fields with their values, and what is fixed."""
    usual = settings_of(type(slot.base)(), folder)
    fixed = {k: v for k, v in settings_of(slot.base, folder).items() if v != usual[k]}
    return fixed | {field: _values(dimension) for field, dimension in slot.ranges.items()}


def _values(dimension: Dimension) -> Any:
    if isinstance(dimension, Interval):
        return {
            k: v
            for k, v in dataclasses.asdict(dimension).items()
            if v is not None and v is not False
        }
    return list(dimension.values())
