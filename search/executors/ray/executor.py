"""The Ray executor: runs trials on the workers of a cluster, through Ray Tune."""

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
    open_access_warning,
)  # isort: skip

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import BadEnvironment
from search.executors import Executor, Listener
from search.executors.local import Local, trial_content
from search.executors.ray.control import RungScheduler, SearchCallback
from search.executors.ray.searcher import StudySearcher
from search.executors.ray.shipping import Depot, Workspace
from search.executors.ray.trainable import Trial, placement
from search.executors.ray.worker import clear, confirm, remote_refusal
from search.experiment import refusal
from search.records import Record
from search.study import PendingTrial, Queue
from spaces import Plan
from spaces.devices import device_of

CLEAR_SECONDS = 10.0
"""Seconds to wait at the end for machines that do not answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayTune(Executor):
    """Runs trials on a Ray cluster, each in a process that a worker forks and watches."""

    address: str | None = None
    """Address of a running cluster, "auto" for the one of this machine; None starts one here."""
    workers: int | None = None
    """Most trials that run at once; None is one for each machine, or for each of its
    accelerators."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be a positive integer, got {self.workers}")

    @functools.cached_property
    def parallel(self) -> int:
        """Most trials that run at once."""
        if self.workers is not None:
            return self.workers
        unit = device_of(self.experiment.target.device).accelerator
        return max(1, sum(int(n.get(unit, 0)) if unit else 1 for n in machines()))

    def notices(self) -> Sequence[str]:
        """Return a warning if the cluster to be started lets anyone in who can reach it."""
        return [warning] if (warning := open_access_warning(self.address)) else []

    def prepare(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises BadEnvironment if no cluster answers at the address.
        """
        if not ray.is_initialized():
            connect(self.address, self.cores, self.experiment)

    def lacks(self, plan: Plan, avoid: str | None = None) -> str | None:
        """Return the reason why no machine except `avoid` can run a plan, or None if one can."""
        request, able_machines = self._request(plan), self._able(plan)
        if able_machines - {avoid}:
            return None
        if able_machines:
            return "Only the machine on which it was lost could give what it asks for."
        most = {k: max((n.get(k, 0) for n in machines()), default=0) for k in request}
        requested, available = (
            " and ".join(f"{v:g} {k}" for k, v in d.items()) for d in (request, most)
        )
        return f"It asks for {requested} on one machine; the cluster's largest has {available}."

    def refusal(self, plan: Plan, kinds: frozenset[str]) -> str | None:
        """Return the reason why the cluster can never execute a plan, or None if it can.

        Kernels are looked up on a machine that has the resources for the plan, as the driver's
        machine often has no GPU. Raises BadEnvironment if no such machine answers.
        """
        if reason := self.lacks(plan):
            return reason
        able_machines = self._able(plan)
        if self._here in able_machines:
            return refusal(self.experiment, plan, kinds)
        last_error = ""
        for machine in sorted(filter(None, able_machines)):
            affinity = NodeAffinitySchedulingStrategy(machine, soft=False)
            task = remote_refusal.options(scheduling_strategy=affinity)
            try:
                answer: str | None = ray.get(task.remote(self.experiment.to_json(), plan, kinds))
            except ray.exceptions.RayError as error:  # the machine may have left the cluster
                last_error = last_line(error)
            else:
                return answer
        raise BadEnvironment(f"no machine of the cluster says what it can execute: {last_error}")

    def run(self, queue: Queue) -> None:
        """Evaluate the points of the queue on all workers until it is finished."""
        searcher = StudySearcher(queue, self)
        _ = self._depot  # creates the actor before the first trial ends, and keeps it alive
        while not self._run_tune(searcher):
            pass
        if searcher.error is not None:
            raise searcher.error

    def _run_tune(self, searcher: StudySearcher) -> bool:
        """Run Tune; return False if it gave up, as it does if Ray kills a worker to free memory."""
        try:
            self._tune(searcher)
        except RuntimeError as error:
            if not isinstance(error.__cause__, ray.exceptions.OutOfMemoryError):
                raise
            searcher.memory_ran_out(error.__cause__)
            return False
        return True

    def _tune(self, searcher: StudySearcher) -> None:
        watching = SearchCallback(searcher)
        with tempfile.TemporaryDirectory(prefix="paretune-tune-") as scratch, quiet():
            options: dict[str, Any] = {
                "name": "search",
                "num_samples": -1,
                "search_alg": searcher,
                "scheduler": RungScheduler(searcher),
                "callbacks": [watching],
                "max_concurrent_trials": self.parallel,
                "reuse_actors": True,
                "max_failures": 0,  # the searcher schedules retries, after a pause
                "raise_on_failed_trial": False,
                "storage_path": scratch,
                "verbose": 0,
            }
            try:
                tune.run(tune.with_resources(Trial, placement), **options)
            finally:
                watching.end_trials()

    def confirm(
        self, records: Sequence[Record], reference: Record, listener: Listener
    ) -> dict[str, Any]:
        """Return new measurements of records, by trial number, taken where the trials ran.

        Raises BadEnvironment if the measuring process fails.
        """
        if self._workspace.shared_by_all:
            return self._local.confirm(records, reference, listener)
        requests = [self._request(self.experiment.space.plan(record.point)) for record in records]
        resources = {k: max(request[k] for request in requests) for k in requests[0]}
        task = confirm.options(**_as_options(resources))
        lines = [r.line() for r in (reference, *records)]
        answers = task.remote(self._workspace, self.cores, lines)
        try:
            return dict(ray.get(answers))
        except KeyboardInterrupt:
            ray.cancel(reference, force=True)
            raise
        except ray.exceptions.RayError as error:
            reason = last_line(error)
            raise BadEnvironment(f"the front could not be confirmed: {reason}") from error

    def explain(
        self, members: Sequence[Record], records: Sequence[Record], listener: Listener
    ) -> dict[str, Any]:
        """Return the steps to each member, measured here; none if trials ran on other machines."""
        if not self._workspace.shared_by_all:
            return {}
        return self._local.explain(members, records, listener)

    def close(self) -> None:
        """Clear the machines of the cluster and leave it; a cluster started here ends."""
        if (
            ray.is_initialized()
            and "_workspace" in vars(self)
            and not self._workspace.shared_by_all
        ):
            strategies = (
                NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive()
            )
            options = ({"num_cpus": 0, "scheduling_strategy": strategy} for strategy in strategies)
            tasks = [clear.options(**option).remote(self._workspace) for option in options]
            ray.wait(tasks, num_returns=len(tasks), timeout=CLEAR_SECONDS)
        ray.shutdown()

    def threads(self) -> int:
        """Return the number of threads with which a trial is built and trained."""
        nodes = machines()
        cores = min((int(n.get("CPU", 1)) for n in nodes), default=1)
        trials_per_machine = -(-self.parallel // max(1, len(nodes)))
        return max(1, cores // trials_per_machine)

    def config(self, pending: PendingTrial, avoid: str | None) -> dict[str, Any]:
        """Return the configuration of a trial for its worker, as plain data.

        A machine is avoided only if another one has the resources for the trial.
        """
        plan = self.experiment.space.plan(pending.point)
        return {
            "workspace": dataclasses.asdict(self._workspace),
            **trial_content(pending, plan.runtime),
            "avoid": avoid if self._able(plan) - {avoid} else None,
            "resources": self._request(plan),
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
        """Return Ray's ids of the machines that have the resources for a plan."""
        request = self._request(plan)
        resources = {node["NodeID"]: node["Resources"] for node in alive()}
        return {
            i for i, n in resources.items() if all(n.get(k, 0) >= v for k, v in request.items())
        }

    @functools.cached_property
    def _here(self) -> str:
        """Ray's id of the driver's machine."""
        return str(ray.get_runtime_context().get_node_id())

    @functools.cached_property
    def _workspace(self) -> Workspace:
        return Workspace.of(self.experiment, self.folder, remote=len(machines()) > 1)

    @functools.cached_property
    def _depot(self) -> Any:
        """The actor that receives files here; None if all workers share the disk."""
        if self._workspace.shared_by_all:
            return None
        here = NodeAffinitySchedulingStrategy(self._here, soft=False)
        options = {"name": self._workspace.depot, "num_cpus": 0, "scheduling_strategy": here}
        return ray.remote(Depot).options(**options).remote(self._workspace.run)

    @property
    def _local(self) -> Local:
        return Local(experiment=self.experiment, folder=self.folder, cores=self.cores)


def _as_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Return resources as options of a Ray task, in which CPUs and GPUs have names of their own."""
    others = {k: v for k, v in resources.items() if k not in ("CPU", "GPU")}
    options: dict[str, Any] = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)}
    return options | ({"resources": others} if others else {})
