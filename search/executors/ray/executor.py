"""Trials on the workers of a Ray cluster, through Ray Tune."""

import dataclasses
import functools
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from search.executors.ray.cluster import (  # isort: skip
    alive,
    connect,
    last_line,
    machines,
    quiet,
    unguarded,
)  # isort: skip

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import BadEnvironment
from search.executors import Executor, Listener
from search.executors.local import Local
from search.executors.ray.control import Stopping, Watching
from search.executors.ray.searcher import Asking
from search.executors.ray.shipping import Depot, Station
from search.executors.ray.trainable import Trial
from search.executors.ray.worker import clear, confirm, refused
from search.experiment import refusal
from search.records import Record
from search.study import PendingTrial, Queue
from spaces import Plan
from spaces.devices import device_of

FAREWELL = 10.0
"""Seconds for which machines that do not answer any more are waited for at the end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayTune(Executor):
    """Runs trials on a Ray cluster, each in a process that a worker forks and watches."""

    address: str | None = None
    """Of a running cluster, "auto" for the one of this machine; None starts one here."""
    workers: int | None = None
    """Trials that run at once at most; None is one for each machine, or each of its GPUs."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be a positive integer, got {self.workers}")

    @functools.cached_property
    def parallel(self) -> int:
        """How many trials run at once at most."""
        if self.workers is not None:
            return self.workers
        unit = device_of(self.experiment.target.device).accelerator
        return max(1, sum(int(n.get(unit, 0)) if unit else 1 for n in machines()))

    def notices(self) -> Sequence[str]:
        """Return a warning where the cluster will let anyone in who can reach it."""
        return [warning] if (warning := unguarded(self.address)) else []

    def prepare(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises BadEnvironment when there is none at the address.
        """
        if not ray.is_initialized():
            connect(self.address, self.cores, self.experiment)

    def lacks(self, plan: Plan, avoid: str | None = None) -> str | None:
        """Return why no machine of the cluster, or no other one, can ever give what is asked."""
        wanted, able = self._request(plan), self._able(plan)
        if able - {avoid}:
            return None
        if able:
            return "Only the machine on which it was lost could give what it asks for."
        most = {k: max((n.get(k, 0) for n in machines()), default=0) for k in wanted}
        asked, given = (" and ".join(f"{v:g} {k}" for k, v in d.items()) for d in (wanted, most))
        return f"It asks for {asked} on one machine; the cluster's largest has {given}."

    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        """Return why the cluster can never execute a plan, None if it can.

        What has kernels is asked of one machine that can give what the plan asks for: the driver's
        own often has no GPU. Raises BadEnvironment when none of them answers.
        """
        if reason := self.lacks(plan):
            return reason
        able = self._able(plan)
        if self._here in able:
            return refusal(self.experiment, plan, kinds)
        lost = ""
        for machine in sorted(filter(None, able)):
            there = NodeAffinitySchedulingStrategy(machine, soft=False)
            asked = refused.options(scheduling_strategy=there)
            try:
                found: str | None = ray.get(asked.remote(self.experiment.to_json(), plan, kinds))
            except ray.exceptions.RayError as error:  # it may have been lost meanwhile
                lost = last_line(error)
            else:
                return found
        raise BadEnvironment(f"no machine of the cluster says what it can execute: {lost}")

    def run(self, queue: Queue) -> None:
        """Evaluate the points of the queue on all workers until it is finished."""
        searcher = Asking(queue, self)
        _ = self._depot  # held, and in place before the first trial has ended
        while not self._tuned(searcher):
            pass
        if searcher.error is not None:
            raise searcher.error

    def _tuned(self, searcher: Asking) -> bool:
        """Run Tune; return False where it gave up, as when Ray kills a worker to free memory."""
        try:
            self._tune(searcher)
        except RuntimeError as error:
            if not isinstance(error.__cause__, ray.exceptions.OutOfMemoryError):
                raise
            searcher.ran_out_of_memory(error.__cause__)
            return False
        return True

    def _tune(self, searcher: Asking) -> None:
        watching = Watching(searcher)
        with tempfile.TemporaryDirectory(prefix="paretune-tune-") as scratch, quiet():
            options: dict[str, Any] = {
                "name": "search",
                "num_samples": -1,
                "search_alg": searcher,
                "scheduler": Stopping(searcher),
                "callbacks": [watching],
                "max_concurrent_trials": self.parallel,
                "reuse_actors": True,
                "max_failures": 0,  # the searcher tries again itself, and not at once
                "raise_on_failed_trial": False,
                "storage_path": scratch,
                "verbose": 0,
            }
            try:
                tune.run(tune.with_resources(Trial, self._placement), **options)
            finally:
                watching.end_trials()

    def confirm(self, records: Sequence[Record], listener: Listener) -> dict[str, Any]:
        """Return new measurements of records by trial, taken where the trials ran.

        Raises BadEnvironment when the process fails.
        """
        if self._station.shared_by_all:
            return self._local.confirm(records, listener)
        each = [self._request(self.experiment.space.plan(record.point)) for record in records]
        wanted = {k: max(request[k] for request in each) for k in each[0]}
        task = confirm.options(**_as_options(wanted))
        under_way = task.remote(self._station, self.cores, [r.line() for r in records])
        try:
            return dict(ray.get(under_way))
        except KeyboardInterrupt:
            ray.cancel(under_way, force=True)
            raise
        except ray.exceptions.RayError as error:
            reason = last_line(error)
            raise BadEnvironment(f"the front could not be confirmed: {reason}") from error

    def close(self) -> None:
        """Leave the cluster, with nothing left on its machines; one that was started here ends."""
        if ray.is_initialized() and "_station" in vars(self) and not self._station.shared_by_all:
            each = (NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive())
            options = ({"num_cpus": 0, "scheduling_strategy": strategy} for strategy in each)
            left = [clear.options(**own).remote(self._station) for own in options]
            ray.wait(left, num_returns=len(left), timeout=FAREWELL)
        ray.shutdown()

    def threads(self) -> int:
        """Return the threads with which a trial is built and trained."""
        found = machines()
        cores = min((int(n.get("CPU", 1)) for n in found), default=1)
        together = -(-self.parallel // max(1, len(found)))  # on one machine
        return max(1, cores // together)

    def config(self, asked: PendingTrial, avoid: str | None) -> dict[str, Any]:
        """Return what a worker needs to know of a trial, as plain data.

        A machine is avoided only where another one can give what the trial asks for.
        """
        plan = self.experiment.space.plan(asked.point)
        return {
            "station": dataclasses.asdict(self._station),
            "trial": asked.trial,
            "point": asked.point,
            "runtimes": [plan.runtime],
            "avoid": avoid if self._able(plan) - {avoid} else None,
            "threads": self.threads(),
            "measuring_threads": self.experiment.target.threads,
            "limit": self.experiment.trial_time,
        }

    def _request(self, plan: Plan) -> dict[str, float]:
        """Return the resources of a plan, all on one machine."""
        target, devices = self.experiment.target, plan.placement.count
        if unit := device_of(target.device).accelerator:
            return {"CPU": 1.0, unit: float(devices)}
        return {"CPU": float(max(self.threads(), devices * target.threads))}

    def _able(self, plan: Plan) -> set[str | None]:
        """Return Ray's ids of the machines that can give what a plan asks for."""
        wanted = self._request(plan)
        found = {node["NodeID"]: node["Resources"] for node in alive()}
        return {i for i, n in found.items() if all(n.get(k, 0) >= v for k, v in wanted.items())}

    def _placement(self, config: Mapping[str, Any]) -> PlacementGroupFactory:
        bundle = self._request(self.experiment.space.plan(config["point"]))
        if config["avoid"] is None:
            return PlacementGroupFactory([bundle])
        elsewhere = [{"ray.io/node-id": f"!{config['avoid']}"}]
        return PlacementGroupFactory([bundle], bundle_label_selector=elsewhere)

    @functools.cached_property
    def _here(self) -> str:
        """Ray's id of the driver's machine."""
        return str(ray.get_runtime_context().get_node_id())

    @functools.cached_property
    def _station(self) -> Station:
        return Station.of(self.experiment, self.folder, remote=len(machines()) > 1)

    @functools.cached_property
    def _depot(self) -> Any:
        """The actor that receives files here, None where all workers share the disk."""
        if self._station.shared_by_all:
            return None
        here = NodeAffinitySchedulingStrategy(self._here, soft=False)
        options = {"name": self._station.depot, "num_cpus": 0, "scheduling_strategy": here}
        return ray.remote(Depot).options(**options).remote(self._station.run)

    @property
    def _local(self) -> Local:
        return Local(experiment=self.experiment, folder=self.folder, cores=self.cores)


def _as_options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """Return resources as options of a remote function, which names those of accelerators apart."""
    rest = {k: v for k, v in wanted.items() if k not in ("CPU", "GPU")}
    options: dict[str, Any] = {"num_cpus": wanted["CPU"], "num_gpus": wanted.get("GPU", 0)}
    return options | ({"resources": rest} if rest else {})
