"""Tasks on the workers of a Ray cluster: trials, confirmation, refusals and clean-up."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from objectives.host import new_file
from search.executors.local import Local
from search.executors.ray.shipping import Workspace, shipped
from search.experiment import Experiment, refusal
from search.records import Record
from search.trial_process import PATIENCE, Child, Failed, Killed, job
from spaces import Plan

INTERVAL = 1.0
"""Seconds between two messages about the same stage of a trial."""
SWEEPS = 5
"""Most times that a machine is cleared at the end."""
SETTLE = 0.5
"""Seconds after which a killed trial writes no more files."""


class Evaluation:
    """One trial, evaluated in a child process."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start the trial."""
        self._workspace = Workspace(**config["workspace"])
        experiment, run, self._shared = self._workspace.local_folders()
        self._number, self._run, self._last_progress = config["trial"], run, ("", 0.0)
        self._awaits_answer = self._reported_place = False
        keys = ("trial", "point", "runtimes", "reference", "baseline_values")
        parts = {k: config[k] for k in keys}
        if parts["reference"] and not self._shared:
            _fetch(self._workspace, run, parts["reference"]["trial"])
        content = job("trial", experiment, run, config["threads"], **parts)
        log = run / "logs" / f"{config['trial']}.log"
        self._child = Child(content, log, config["limit"], experiment.target.threads)

    def step(self) -> dict[str, Any]:
        """Return the next message of the trial; raises Killed if it may succeed elsewhere."""
        if not self._reported_place:
            self._reported_place = True
            context = ray.get_runtime_context()
            return self._result(
                {"machine": context.get_node_id(), "worker": context.get_actor_id()}
            )
        if self._awaits_answer:
            self._awaits_answer = False
            self._child.answer(stop=None)
        try:
            return self._next_message(self._child)
        except Killed:
            raise
        except Failed as error:
            return self._result({"failed": str(error)}, done=True)

    def close(self) -> None:
        """End the trial, finished or not; a trial that waits for an answer is killed at once."""
        self._child.close(0.0 if self._awaits_answer else PATIENCE)

    def _next_message(self, process: Child) -> dict[str, Any]:
        """Return the next message, leaving out frequent ones about the same stage."""
        while True:
            message = process.receive()
            if "result" in message:
                if not self._shared:
                    self._deliver()
                return self._result(message, done=True)
            if "rung" in message:
                self._awaits_answer = True
                return self._result(message)
            stage, sent_at = self._last_progress
            if message["stage"] != stage or time.monotonic() - sent_at > INTERVAL:
                self._last_progress = (message["stage"], time.monotonic())
                return self._result(message)

    def _result(self, message: Mapping[str, Any], *, done: bool = False) -> dict[str, Any]:
        return {"message": json.dumps(message, allow_nan=False), "done": done}

    def _deliver(self) -> None:
        """Send the artifact and the log to the driver's machine."""
        depot = ray.get_actor(self._workspace.depot)
        for name, content in shipped(self._run, self._number):
            ray.get(depot.put.remote(name, content))


@ray.remote(max_retries=1)  # type: ignore[untyped-decorator]
def confirm(workspace: Workspace, threads: int, lines: list[str]) -> dict[str, Any]:
    """Measure records again on a machine of the cluster, to which their artifacts are copied.

    The first line is the reference.
    """
    experiment, run, shared = workspace.local_folders()
    reference, *records = [Record.from_json(json.loads(line)) for line in lines]
    if not shared:
        for record in (reference, *records):
            _fetch(workspace, run, record.trial)
    local = Local(experiment=experiment, folder=run, cores=threads)
    return local.confirm(records, reference, lambda stage, done, of, detail: None)


def _fetch(workspace: Workspace, run: Path, trial: int) -> None:
    """Copy the files of a trial to this machine, unless they are here."""
    if (run / "artifacts" / str(trial) / "manifest.json").is_file():
        return
    files = ray.get(ray.get_actor(workspace.depot).get.remote(trial))
    for name, content in sorted(files, key=lambda file: file[0].endswith("manifest.json")):
        file = run / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as draft:
            draft.write_bytes(content)


# The task claims no GPU, as trials may hold all of them; the variable stops Ray from hiding them.
SEES_GPUS = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}


@ray.remote(num_cpus=0, runtime_env=SEES_GPUS)  # type: ignore[untyped-decorator]
def remote_refusal(content: dict[str, Any], plan: Plan, kinds: frozenset[str]) -> str | None:
    """Return the reason why a machine of the cluster cannot execute a plan, or None if it can.

    `content` is the experiment as plain data; Ray has put the user's files into the current folder.
    """
    return refusal(Experiment.of(content, Path.cwd()), plan, kinds)


@ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
def clear(workspace: Workspace) -> None:
    """Remove files of trials from a machine without the driver's disk.

    A trial that is being killed may still write: its new files are removed in the next sweep.
    """
    for _ in range(SWEEPS):
        shutil.rmtree(workspace.scratch, ignore_errors=True)
        time.sleep(SETTLE)
        if not workspace.scratch.exists():
            return
