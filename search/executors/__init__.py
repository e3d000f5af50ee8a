"""Catalogue of executors, which run the trials of a search."""

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
"""Called with the progress of what is running: (stage, done, of, detail)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Executor(abc.ABC):
    """Runs trials; further fields of subclasses are settings of an experiment."""

    quiet: ClassVar[bool] = False
    """True if trials are measured on this machine, so that this process must not compute beside
    them."""

    experiment: Experiment
    folder: Path
    """The run folder."""
    cores: int
    """Number of cores of this machine that trials may use."""

    def notices(self) -> Sequence[str]:
        """Return notices for the user before trials run, one line each."""
        return ()

    @abc.abstractmethod
    def prepare(self) -> None:
        """Start what the first trial needs; return early if that can continue in the background."""

    @abc.abstractmethod
    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        """Return the reason why trials can never execute a plan, or None if they can.

        `kinds` are the class names of the model's layers.
        """

    @abc.abstractmethod
    def run(self, queue: Queue) -> None:
        """Evaluate points of the queue and tell it their records until it is finished."""

    @abc.abstractmethod
    def confirm(
        self, records: Sequence[Record], reference: Record, listener: Listener
    ) -> dict[str, Any]:
        """Return new measurements of records, by trial number; the first record is the baseline.

        All take turns with the artifact of `reference`.

        Raises BadEnvironment if they cannot be measured.
        """

    def explain(
        self, members: Sequence[Record], records: Sequence[Record], listener: Listener
    ) -> dict[str, Any]:
        """Return the steps from the baseline to each member, by trial: see `evaluation.steps`.

        `records` are those whose artifacts exist, the first is the baseline. Executors that cannot
        build candidates beside these artifacts return none. Raises BadEnvironment.
        """
        del members, records, listener
        return {}

    def close(self) -> None:  # noqa: B027
        """Release all resources."""


def executor_of(experiment: Experiment, folder: Path, cores: int) -> Executor:
    """Return the executor that an experiment names; raises SearchError for a wrong setting."""
    entry = experiment.executor or NamedEntry("local")
    where = f"executor.{entry.name}"
    executor_class = catalogue.find("executor", entry.name, Executor, experiment.folder)
    engine_fields = {"experiment": experiment, "folder": folder, "cores": cores}
    fields = fields_of(executor_class, where, entry.settings, hidden=engine_fields)
    executor: Executor = instantiate(executor_class, where, fields | engine_fields)
    return executor
