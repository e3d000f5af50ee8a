"""The experiment: everything that defines one search, read from TOML or built in code."""

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
CACHE_GB = 10.0
BUDGET = ("name", "trials", "time", "trial_time", "cache_gb", "executor")
"""Keys that may change when a run is resumed: they do not change the meaning of a record."""


@dataclasses.dataclass(frozen=True)
class NamedEntry:
    """Name and settings of a catalogue entry; its class is looked up where it is used."""

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, key: str, value: Any) -> "NamedEntry":
        """Return the entry of "tpe" or {"tpe": {...}}; raises BadExperiment for any other form."""
        if isinstance(value, NamedEntry):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and len(value) == 1:
            ((name, settings),) = value.items()
            if isinstance(settings, Mapping):
                return cls(name, dict(settings))
        raise BadExperiment(f"{key} must be a name or one table [{key}.NAME], got {value!r}")

    def to_json(self) -> Any:
        """Return the form that `of` accepts."""
        return {self.name: dict(self.settings)} if self.settings else self.name


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Experiment:
    """Everything that defines one search."""

    task: Task
    target: Target
    space: Space
    objectives: tuple[Goal, ...]
    name: str
    seed: int
    trials: int
    time: float | None
    """Seconds after which no trial is started; None for no limit."""
    trial_time: float
    """Seconds after which a trial is killed."""
    cache_gb: float
    """Largest size of what trials keep for each other, in GB: models, statistics, probes."""
    sampler: NamedEntry
    executor: NamedEntry | None
    """Where trials run; None runs one at a time on this machine."""
    folder: Path
    """Folder at which relative paths start."""
    notices: tuple[str, ...] = dataclasses.field(compare=False)
    """Lines about values that were added to those of the user."""
    text: str | None = dataclasses.field(compare=False)
    """The TOML from which it was read, if any, to be copied into the run folder."""

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
        cache_gb: float = CACHE_GB,
        sampler: NamedEntry | str | Mapping[str, Any] = "structural",
        executor: NamedEntry | str | Mapping[str, Any] | None = None,
        folder: Path | None = None,
        notices: Sequence[str] = (),
        text: str | None = None,
    ) -> None:
        """Check the parts, each an object or a table; raises SearchError for a wrong one.

        Tables have the same form as in TOML: `{"prune.channels": {"ratio": [0, 0.3, 0.6]}}` is a
        space, `{"accuracy": {"within": "2%"}, "latency": {}}` are objectives.
        """
        folder = (folder or Path()).resolve()
        if not isinstance(space, Space):
            space, added = reading.space_from(space, folder)
            notices = (*notices, *added)
        goals = objectives
        if isinstance(goals, Mapping):
            goals = goals_of(reading.required_table("objectives", goals), folder)
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
            "cache_gb": reading.positive("cache_gb", cache_gb),
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
        """Read and check an experiment file; raises SearchError if it is wrong."""
        if not path.is_file():
            raise BadExperiment(
                f"no experiment at {path}; give the path of a TOML file, or --task task.py"
            )
        return cls.parse(path.read_text(), path.resolve().parent, default_name=path.stem)

    @classmethod
    def parse(cls, text: str, folder: Path, default_name: str = "experiment") -> "Experiment":
        """Check the text of an experiment; raises SearchError if it is wrong."""
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadExperiment(f"the experiment is not valid TOML: {error}") from error
        return cls.of({"name": default_name} | content, folder, text=text)

    @classmethod
    def of(
        cls, content: Mapping[str, Any], folder: Path, *, text: str | None = None
    ) -> "Experiment":
        """Return the experiment of a plain table, such as one from `to_json`.

        Relative paths start at `folder`. Raises SearchError if the table is wrong.
        """
        known = [f.name for f in dataclasses.fields(cls) if f.name not in _HIDDEN]
        for key in content:
            if key not in known:
                raise UnknownName("key of an experiment", key, known)
        for key in ("task", "space", "objectives"):
            reading.required_table(key, content.get(key))
        return cls(**content, folder=folder, text=text)

    def to_json(self) -> dict[str, Any]:
        """Return the experiment as plain data; paths inside its folder are relative to it.

        Raises BadExperiment if another process could not import one of the user's classes.
        """
        try:
            return {
                "name": self.name,
                "seed": self.seed,
                "trials": self.trials,
                **({} if self.time is None else {"time": self.time}),
                "trial_time": self.trial_time,
                **({} if self.cache_gb == CACHE_GB else {"cache_gb": self.cache_gb}),
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
        """Short hash of all parts that affect a record; budget and name do not."""
        content = {k: v for k, v in self.to_json().items() if k not in BUDGET}
        text = json.dumps([content, str(self.folder)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def runtime(self, name: str) -> Runtime:
        """Return the runtime with a name; raises SearchError if there is none."""
        return catalogue.find("runtime", name, Runtime, self.folder)()

    def runtime_names(self) -> tuple[str, ...]:
        """Return the names of all runtimes in the space, the neutral one first."""
        neutral = self.space.plan(self.space.neutral()).runtime
        dimension = self.space.dimensions().get(self.space.named("runtime") or "")
        values = dimension.values() if dimension else None
        others = [str(v) for v in values or () if v != neutral]
        return (neutral, *others)

    def provenance(self) -> dict[str, Any]:
        """Return the task and the objectives as a manifest stores them, with absolute paths."""
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
    """Return a technique's table: the values of searched fields, and fixed settings."""
    defaults = settings_of(type(slot.base)(), folder)
    fixed = {k: v for k, v in settings_of(slot.base, folder).items() if v != defaults.get(k)}
    return fixed | {field: _values(dimension) for field, dimension in slot.ranges.items()}


def _values(dimension: Dimension) -> Any:
    if isinstance(dimension, Interval):
        return {
            k: v
            for k, v in dataclasses.asdict(dimension).items()
            if v is not None and v is not False
        }
    return list(dimension.values())
