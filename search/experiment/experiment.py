"""The experiment file: what is asked, parsed and checked in one place."""

import dataclasses
import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives import Runtime, Target
from search import catalogue
from search.errors import BadExperiment, UnknownName
from search.experiment.fields import built, declared, fields_of, require
from search.experiment.goals import Goal, goals_of
from spaces import Choice, Dimension, Interval, Slot, Space, Task, Technique, widened
from spaces.devices import device_names

TOP = ("name", "seed", "trials", "time", "trial_time", "task", "target", "space", "objectives")
MAX_TRIALS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that one search needs to know."""

    name: str
    seed: int
    trials: int
    time: float | None
    """Seconds after which no trial is started; None is without a limit."""
    trial_time: float
    """Seconds after which a trial is killed."""
    task: Task
    target: Target
    space: Space
    goals: tuple[Goal, ...]
    notices: tuple[str, ...]
    """What was added to what the user wrote, one line each."""
    text: str
    folder: Path
    """The folder to which paths in `text` are relative."""

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
        for key in content:
            if key not in TOP:
                raise UnknownName("key of an experiment", key, TOP)
        space, notices = _space(_table(content, "space"))
        return cls(
            name=_name(content.get("name", default_name)),
            seed=_integer(content, "seed", 0, low=0),
            trials=_integer(content, "trials", 40, low=1, high=MAX_TRIALS),
            time=duration(content["time"]) if "time" in content else None,
            trial_time=duration(content.get("trial_time", "15m")),
            task=_task(_table(content, "task"), folder),
            target=_target(content.get("target", {})),
            space=space,
            goals=goals_of(_table(content, "objectives")),
            notices=tuple(notices),
            text=text,
            folder=folder,
        )

    @property
    def key(self) -> str:
        """A short hash of what decides the meaning of a record: all but budget and name."""
        content = tomllib.loads(self.text)
        for budget in ("trials", "time", "trial_time", "name"):
            content.pop(budget, None)
        return hashlib.sha256(repr((content, str(self.folder))).encode()).hexdigest()[:12]

    def runtime(self, name: str) -> Runtime:
        """Return the runtime of a name."""
        return catalogue.find("runtime", name, Runtime)()

    def searched_runtimes(self) -> tuple[str, ...]:
        """Return the runtimes that a point may name, the neutral one first."""
        neutral = self.space.plan(self.space.neutral()).runtime
        dimension = self.space.dimensions().get("deploy.runtime.name")
        values = dimension.values() if dimension else None
        others = [str(v) for v in values or () if v != neutral]
        return (neutral, *others)


def duration(given: Any) -> float:
    """Return the seconds of 90, "90s", "20m" or "1.5h"; raises BadExperiment."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(given))
    if not match or float(match[1]) <= 0 or isinstance(given, bool):
        raise BadExperiment(f"a time is written as 90s, 20m or 1.5h, got {given!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _name(given: Any) -> str:
    if not isinstance(given, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", given):
        raise BadExperiment(
            f"name must be up to 64 letters, digits, '-', '_' or '.', starting with a letter or "
            f"digit, got {given!r}: it names the run's folder"
        )
    return given


def _integer(
    content: Mapping[str, Any], key: str, default: int, *, low: int, high: int = 2**31
) -> int:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise BadExperiment(f"{key} must be an integer from {low} to {high}, got {value!r}")
    return value


def _table(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key)
    if not isinstance(table, dict) or not table:
        example = {"task": "[task.python]", "space": "[space.prune.channels]"}
        heading = example.get(key, "[objectives.accuracy]")
        raise BadExperiment(f"the experiment has no {key}: add a table such as {heading}")
    return table


def _task(table: Mapping[str, Any], folder: Path) -> Task:
    if len(table) != 1:
        raise BadExperiment(f"an experiment has exactly one task, got {', '.join(table)}")
    ((name, fields),) = table.items()
    kind = catalogue.find("task", name, Task)
    fields = fields_of(kind, f"task.{name}", fields)
    if isinstance(fields.get("file"), str):
        fields["file"] = str((folder / Path(fields["file"]).expanduser()).resolve())
        if not Path(fields["file"]).is_file():
            raise BadExperiment(
                f"task.{name}.file: no file at {fields['file']}; write it with the functions "
                "model() and batches(split, batch_size)"
            )
    task: Task = built(kind, f"task.{name}", fields)
    return task


def _target(table: Any) -> Target:
    fields = fields_of(Target, "target", table)
    target: Target = built(Target, "target", fields)
    for name in ("threads", "batch_size"):
        value = getattr(target, name)
        if value < 1:
            raise BadExperiment(f"target.{name} must be a positive integer, got {value!r}")
    if target.device not in (devices := device_names()):
        known = " or ".join(f'"{device}"' for device in devices)
        raise BadExperiment(f"target.device must be {known}, got {target.device!r}")
    return target


def _space(table: Mapping[str, Any]) -> tuple[Space, list[str]]:
    slots, notices = [], []
    for family, techniques in table.items():
        if not isinstance(techniques, dict):
            raise BadExperiment(f"space.{family} must be a table such as [space.prune.channels]")
        for short, fields in techniques.items():
            slot, added = _slot(f"{family}.{short}", fields)
            slots.append(slot)
            notices += added
    if not any(slot.ranges for slot in slots):
        raise BadExperiment("no dimension is searched: give at least one field several values")
    return Space(slots=tuple(slots)), notices


def _slot(name: str, fields: Any) -> tuple[Slot, list[str]]:
    """Return a technique with its ranges, and a notice for each neutral value that was added."""
    kind = catalogue.find("technique", name, Technique)
    fields = fields_of(kind, f"space.{name}", fields)
    declared = {f.name: f for f in dataclasses.fields(kind)}
    searchable = {n: f for n, f in declared.items() if "dimension" in f.metadata}
    ranges: dict[str, Dimension] = {}
    fixed = {}
    for field, given in fields.items():
        if isinstance(given, list | dict):
            if field not in searchable:
                raise BadExperiment(f"space.{name}.{field} cannot be searched, give it one value")
            ranges[field] = _dimension(f"space.{name}.{field}", given)
        elif field in searchable and not searchable[field].metadata["on_request"]:
            ranges[field] = _dimension(f"space.{name}.{field}", [given])
        else:
            fixed[field] = given
    usual = {n: f for n, f in searchable.items() if not f.metadata["on_request"]}
    if not fields.keys() & usual.keys():
        ranges |= {n: f.metadata["dimension"] for n, f in usual.items()}
    base = built(kind, f"space.{name}", fixed)
    notices = []
    for field, dimension in ranges.items():
        _check_values(base, f"space.{name}.{field}", field, dimension)
        ranges[field] = widened(dimension, getattr(base, field))
        if ranges[field] != dimension:
            notices.append(
                f"space.{name}.{field}: {getattr(base, field)!r} was added, the value at which "
                "nothing changes; the baseline needs it"
            )
    return Slot(name=name, base=base, ranges=ranges), notices


def _dimension(where: str, given: Any) -> Dimension:
    """Return the dimension of [8, 32] or { low = 0.0, high = 0.7, step = 0.1 }."""
    try:
        if isinstance(given, dict):
            for key in given:
                if key not in ("low", "high", "step", "log"):
                    raise UnknownName(
                        f"key of the range {where}", key, ("low", "high", "step", "log")
                    )
            return _interval(where, given)
        if not all(isinstance(v, int | float | str) for v in given):
            raise ValueError(f"its values must be numbers or strings, got {given}")
        return Choice(tuple(given))
    except (TypeError, ValueError) as error:
        raise BadExperiment(f"{where}: {error}") from error


def _interval(where: str, given: Mapping[str, Any]) -> Interval:
    if not {"low", "high"} <= given.keys():
        raise BadExperiment(
            f"{where}: a range has low and high, as {{ low = 0.0, high = 0.7, step = 0.1 }}, "
            f"got {dict(given)}"
        )
    for key, value in given.items():
        require(bool if key == "log" else float, f"{where}.{key}", value)
    return Interval(**given)


def _check_values(base: Technique, where: str, field: str, dimension: Dimension) -> None:
    """Build the technique at every value, so that a wrong one is refused before the search."""
    grid = dimension.values()
    kind = declared(type(base), field)
    if grid is None:
        assert isinstance(dimension, Interval)
        if kind is int:
            raise BadExperiment(
                f"{where} takes whole numbers: give the range a step, or list the values"
            )
        grid = (dimension.low, dimension.high)
    for value in grid:
        if isinstance(value, str) != (kind is str):
            words = "texts in quotes" if kind is str else "numbers"
            raise BadExperiment(f"{where}: its values are {words}, got {value!r}")
        require(kind, f"each value of {where}", value)
        if field == "name" and isinstance(value, str):
            catalogue.find("runtime", value, Runtime)
        built(type(base), where, {**_as_dict(base), field: value})


def _as_dict(base: Technique) -> dict[str, Any]:
    return {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
