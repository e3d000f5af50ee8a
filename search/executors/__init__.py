"""The catalogue of executors: where trials run."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from search import catalogue
from search.experiment import Experiment, NamedEntry, fields_of, instantiate
from search.records import Record
from search.study import Queue
from spaces import Plan

__all__ = ["Executor", "Listener", "executor_of"]

Listener = Callable[[str, int, int, str], None]
"""Called with (stage, done, of, detail) of what is under way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Executor(abc.ABC):
    """What runs trials; further fields of subclasses are settings of an experiment."""

    quiet: ClassVar[bool] = False
    """Whether this process must do nothing beside the trials: it is measured on its machine."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    cores: int
    """Cores of this machine that trials may use."""

    def notices(self) -> Sequence[str]:
        """Return what the user should know before trials run, one line each."""
        return ()

    @abc.abstractmethod
    def prepare(self) -> None:
        """Start what the first trial needs; return at once where that can go on meanwhile."""

    @abc.abstractmethod
    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        """Return why a plan can never be executed where trials run, None if it can.

        `kinds` are the class names of the model's layers.
        """

    @abc.abstractmethod
    def run(self, queue: Queue) -> None:
        """Evaluate the points of the queue, and tell their records, until it is finished."""

    @abc.abstractmethod
    def confirm(self, records: Sequence[Record], listener: Listener) -> dict[str, Any]:
        """Return new measurements of records by trial, the first record being the baseline.

        Raises BadEnvironment when they cannot be measured.
        """

    def close(self) -> None:  # noqa: B027
        """Leave nothing behind."""


def executor_of(experiment: Experiment, folder: Path, cores: int) -> Executor:
    """Return the executor that an experiment names; raises SearchError in one line."""
    named = experiment.executor or NamedEntry("local")
    where = f"executor.{named.name}"
    kind = catalogue.find("executor", named.name, Executor, experiment.folder)
    engine = {"experiment": experiment, "folder": folder, "cores": cores}
    fields = fields_of(kind, where, named.settings, hidden=engine)
    executor: Executor = instantiate(kind, where, fields | engine)
    return executor
