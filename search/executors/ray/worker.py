"""What runs on the workers of a Ray cluster: trials, and the measurements that confirm a front."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from search.executors.local import Local
from search.executors.ray.shipping import Station, shipped
from search.experiment import Experiment, refusal
from search.records import Record
from search.trial_process import PATIENCE, Child, Failed, Killed, job
from spaces import Plan

TELL = 1.0
"""Seconds between two messages about the same stage of a trial."""
SWEEPS = 5
"""Times that a machine is swept at the end at most."""
SETTLE = 0.5
"""Seconds after which a trial that was killed writes no more."""


class Evaluation:
    """One trial: its child process does the work."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start the trial."""
        self._station = Station(**config["station"])
        experiment, run, self._shared = self._station.here()
        self._number, self._run, self._said = config["trial"], run, ("", 0.0)
        self._asks = self._placed = False
        parts = {k: config[k] for k in ("trial", "point", "runtimes")}
        content = job("trial", experiment, run, config["threads"], **parts)
        log = run / "logs" / f"{config['trial']}.log"
        self._child = Child(content, log, config["limit"], experiment.target.threads)

    def step(self) -> dict[str, Any]:
        """Return the next message of the trial; raises Killed when it may succeed elsewhere."""
        if not self._placed:
            self._placed = True
            context = ray.get_runtime_context()
            return self._told({"machine": context.get_node_id(), "worker": context.get_actor_id()})
        if self._asks:
            self._asks = False
            self._child.answer(stop=None)
        try:
            return self._news(self._child)
        except Killed:
            raise
        except Failed as error:
            return self._told({"failed": str(error)}, done=True)

    def close(self) -> None:
        """End the trial, however far it is; one that waits for an answer gets none."""
        self._child.close(0.0 if self._asks else PATIENCE)

    def _news(self, process: Child) -> dict[str, Any]:
        """Return the next message worth telling."""
        while True:
            message = process.receive()
            if "result" in message:
                if not self._shared:
                    self._deliver()
                return self._told(message, done=True)
            if "rung" in message:
                self._asks = True
                return self._told(message)
            stage, when = self._said
            if message["stage"] != stage or time.monotonic() - when > TELL:
                self._said = (message["stage"], time.monotonic())
                return self._told(message)

    def _told(self, message: Mapping[str, Any], *, done: bool = False) -> dict[str, Any]:
        return {"message": json.dumps(message, allow_nan=False), "done": done}

    def _deliver(self) -> None:
        """Send the artifact and the log to the driver's machine."""
        depot = ray.get_actor(self._station.depot)
        for name, content in shipped(self._run, self._number):
            ray.get(depot.put.remote(name, content))


@ray.remote(max_retries=1)  # type: ignore[untyped-decorator]
def confirm(station: Station, threads: int, lines: list[str]) -> dict[str, Any]:
    """Measure records again on a machine of the cluster; their artifacts are fetched."""
    experiment, run, shared = station.here()
    records = [Record.from_json(json.loads(line)) for line in lines]
    if not shared:
        depot = ray.get_actor(station.depot)
        for record in records:
            for name, content in ray.get(depot.get.remote(record.trial)):
                file = run / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    local = Local(experiment=experiment, folder=run, cores=threads)
    return local.confirm(records, lambda stage, done, of, detail: None)


# Trials may hold all GPUs while it is asked, so it claims none; Ray is told not to hide them then.
SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}


@ray.remote(num_cpus=0, runtime_env=SEES_GPUS)  # type: ignore[untyped-decorator]
def refused(content: dict[str, Any], plan: Plan, kinds: frozenset[str]) -> str | None:
    """Return why a machine of the cluster cannot execute a plan, None if it can.

    `content` is the experiment as plain data; the user's files lie in the current folder, where
    Ray has put them.
    """
    return refusal(Experiment.of(content, Path.cwd()), plan, kinds)


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def clear(station: Station) -> None:
    """Remove what trials left on a machine without the driver's disk.

    One that is being ended may still write: what is back after a moment is removed again.
    """
    for _ in range(SWEEPS):
        shutil.rmtree(station.scratch, ignore_errors=True)
        time.sleep(SETTLE)
        if not station.scratch.exists():
            return
