"""Trials on the workers of a Ray cluster, through Ray Tune: the only file that imports Ray."""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
# Since 2.58 Ray warns of a change that does not concern requests which name their GPUs.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.errors import BadEnvironment, SearchError
from search.executors._process import Child, Failed, Killed, job
from search.executors._shipping import Depot, Station, shipped
from search.executors.local import Local, failed
from search.experiment import Experiment
from search.feed import Feed
from search.record import Record
from search.rungs import Rung
from search.study import Asked
from spaces import Plan

TELL = 1.0
"""Seconds between two messages about the same stage of a trial."""
PAUSE = 10.0
"""Seconds before a trial whose worker was lost is tried again: until then the cluster may still
count on a machine that is gone."""
LOST = "its worker was lost twice: killed, out of memory, or its machine is gone"
STARVED = 300.0
"""Seconds that a trial waits for resources that no machine of the cluster has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayTune:
    """Runs trials on a Ray cluster, each in a process that a worker forks and watches."""

    experiment: Experiment
    folder: Path
    """The run folder, on the driver's machine."""
    address: str | None
    """Of a running cluster, "auto" for the one of this machine; None starts one here."""
    wanted: int | None
    """Trials that run at once at most; None is one for each machine, or each of its GPUs."""
    cores: int
    """Cores of this machine that trials may use, where the cluster is started here."""

    @functools.cached_property
    def workers(self) -> int:
        """How many trials run at once at most."""
        if self.wanted is not None:
            return self.wanted
        unit = None if self.experiment.target.device == "cpu" else "GPU"
        return max(1, sum(int(n.get(unit, 0)) if unit else 1 for n in _machines()))

    def prepare(self) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises BadEnvironment when there is none at the address.
        """
        if not ray.is_initialized():
            _connect(self.address, self.cores, self.experiment)

    def refuses(self, plan: Plan) -> str | None:
        """Return why no machine of the cluster can ever give what a plan asks for."""
        wanted = self._request(plan)
        if any(all(n.get(k, 0) >= v for k, v in wanted.items()) for n in _machines()):
            return None
        most = {k: max((n.get(k, 0) for n in _machines()), default=0) for k in wanted}
        asked, given = (" and ".join(f"{v:g} {k}" for k, v in d.items()) for d in (wanted, most))
        return f"It asks for {asked} on one machine; the cluster's largest has {given}."

    def run(self, feed: Feed) -> None:
        """Evaluate what the feed asks on all workers until it is finished."""
        searcher = Asking(feed, self)
        _ = self._depot  # held, and in place before the first trial has ended
        with tempfile.TemporaryDirectory(prefix="paretune-tune-") as scratch, _quiet():
            tune.run(
                tune.with_resources(Trial, self._placement),
                name="search",
                num_samples=-1,
                search_alg=searcher,
                scheduler=Stopping(searcher),
                callbacks=[Watching(searcher)],
                max_concurrent_trials=self.workers,
                reuse_actors=True,
                max_failures=0,  # the searcher tries again itself, and not at once
                raise_on_failed_trial=False,
                storage_path=scratch,
                verbose=0,
            )
        if searcher.error is not None:
            raise searcher.error

    def confirm(self, records: Sequence[Record], listener: Any) -> dict[str, Any]:
        """Return new measurements of records by trial, taken where the trials ran.

        Raises BadEnvironment when the process fails.
        """
        if self._station.shared_by_all:
            return self._local.confirm(records, listener)
        wanted = self._request(self.experiment.space.plan(records[0].point))
        task = _confirm.options(num_cpus=wanted["CPU"], num_gpus=wanted.get("GPU", 0))
        try:
            return dict(
                ray.get(task.remote(self._station, self.cores, [r.line() for r in records]))
            )
        except ray.exceptions.RayError as error:
            reason = _last_line(error)
            raise BadEnvironment(f"the front could not be confirmed: {reason}") from error

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        ray.shutdown()

    def threads(self) -> int:
        """Return the threads with which a trial is built and trained."""
        machines = _machines()
        cores = min((int(n.get("CPU", 1)) for n in machines), default=1)
        together = -(-self.workers // max(1, len(machines)))  # on one machine
        return max(1, cores // together)

    def config(self, asked: Asked) -> dict[str, Any]:
        """Return what a worker needs to know of a trial, as plain data."""
        runtime = self.experiment.space.plan(asked.point).runtime
        return {
            "station": dataclasses.asdict(self._station),
            "trial": asked.trial,
            "point": asked.point,
            "runtimes": [runtime],
            "threads": self.threads(),
            "limit": self.experiment.trial_time,
        }

    def _request(self, plan: Plan) -> dict[str, float]:
        """Return the resources of a plan, all on one machine."""
        target, devices = self.experiment.target, plan.placement.count
        if target.device != "cpu":
            return {"CPU": 1.0, "GPU": float(devices)}
        return {"CPU": float(max(self.threads(), devices * target.threads))}

    def _placement(self, config: Mapping[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([self._request(self.experiment.space.plan(config["point"]))])

    @functools.cached_property
    def _station(self) -> Station:
        return Station.of(self.experiment, self.folder, remote=len(_machines()) > 1)

    @functools.cached_property
    def _depot(self) -> Any:
        """The actor that receives files here, None where all workers share the disk."""
        if self._station.shared_by_all:
            return None
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": self._station.depot, "num_cpus": 0, "scheduling_strategy": here}
        return ray.remote(Depot).options(**options).remote(self._station.run)

    @property
    def _local(self) -> Local:
        return Local(experiment=self.experiment, folder=self.folder, threads=self.cores)


class Trial(tune.Trainable):  # type: ignore[misc]
    """One trial at a time in a worker that stays: its child process does the work.

    The worker has imported the libraries once, and forks a fresh process for each trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start the first trial."""
        self._child: Child | None = None
        self._asks = False
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in the same worker."""
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next message of the trial; raises Killed when it may succeed elsewhere."""
        assert self._child is not None
        if self._asks:
            self._asks = False
            self._child.answer(stop=None)
        try:
            return self._news(self._child)
        except Killed:
            raise
        except Failed as error:
            return self._told({"failed": str(error)}, done=True)

    def cleanup(self) -> None:
        """End the trial, however far it is."""
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        self._station = Station(**config["station"])
        experiment, run, self._shared = self._station.here()
        self._number, self._run, self._said = config["trial"], run, ("", 0.0)
        self._asks = False
        parts = {k: config[k] for k in ("trial", "point", "runtimes")}
        content = job("trial", experiment, run, config["threads"], **parts)
        log = run / "logs" / f"{config['trial']}.log"
        self._child = Child(content, log, config["limit"], experiment.target.threads)

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

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


class Asking(Searcher):  # type: ignore[misc]
    """The study as Ray Tune sees it: every trial asked is told, whatever becomes of it."""

    def __init__(self, feed: Feed, executor: RayTune) -> None:
        super().__init__(metric=None, mode=None)
        self._feed, self._executor = feed, executor
        self._asked: dict[str, Asked] = {}
        self._begun: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._stopped: dict[str, tuple[str, Rung]] = {}
        self._lost: list[tuple[Asked, float]] = []
        self._tried: set[int] = set()
        self._faults: dict[str, str] = {}
        self.error: BaseException | None = None
        """What a record led to, to be raised once Tune has ended."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial; None while a large one waits for the workers to be free."""
        if any(self._large(self._asked[waiting]) for waiting in self._waiting):
            return None
        with self._errors_kept():
            if self.error is None and (asked := self._again() or self._feed.ask()):
                self._asked[trial_id] = asked
                self._begun[trial_id] = time.monotonic()
                self._waiting.add(trial_id)
                return self._executor.config(asked)
        under_way = self._asked or self._lost  # what is under way may be lost, and be tried again
        over = self.error is not None or (self._feed.finished and not under_way)
        return str(Searcher.FINISHED) if over else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Show how far a trial has come."""
        message = json.loads(result["message"])
        if "stage" in message:
            keys = ("stage", "done", "of", "detail")
            self._feed.progress(self._asked[trial_id], *(message[key] for key in keys))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell a trial that has ended, in whatever way."""
        asked = self._asked.pop(trial_id)
        self._waiting.discard(trial_id)
        seconds = time.monotonic() - self._begun.pop(trial_id)
        if self.error is not None:
            return  # stopped because the search ends: the feed gives it back, to be asked again
        if error and asked.trial not in self._tried:
            self._tried.add(asked.trial)
            self._lost.append((asked, time.monotonic()))
            return
        with self._errors_kept():
            self._feed.tell(asked, self._record(trial_id, asked, result, error, seconds))

    def judge(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial is to stop at the rung it has reached."""
        message = json.loads(result["message"])
        if "rung" not in message:
            return self.error is not None
        rung = Rung.from_json(message["rung"])
        reason = self._feed.judge(self._asked[trial_id], rung)
        if reason:
            self._stopped[trial_id] = (reason, rung)
        return reason is not None

    def fell(self, trial_id: str, error: BaseException | None) -> None:
        """Note why a trial's worker failed, where it could still say so."""
        if isinstance(error, ray.exceptions.RayTaskError):
            self._faults[trial_id] = f"its worker failed twice: {_last_line(error)}"

    def started(self, trial_id: str) -> None:
        """Note that a trial has got its resources."""
        self._waiting.discard(trial_id)

    def check_waiting(self) -> None:
        """Raise BadEnvironment when a trial waits for what the cluster can no longer give."""
        for trial_id in self._waiting:
            asked = self._asked[trial_id]
            reason = self._executor.refuses(self._executor.experiment.space.plan(asked.point))
            if reason and time.monotonic() - self._begun[trial_id] > STARVED:
                raise BadEnvironment(
                    f"trial {asked.trial} cannot start: {reason} All measurements are kept; "
                    "resume when its machines are back"
                )

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study is the truth, and Tune's own state is thrown away."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a search is resumed from its study."""

    def _again(self) -> Asked | None:
        """Return a trial whose worker was lost and whose pause is over."""
        for place, (asked, when) in enumerate(self._lost):
            if time.monotonic() - when >= PAUSE:
                del self._lost[place]
                return asked
        return None

    def _large(self, asked: Asked) -> bool:
        return self._executor.experiment.space.plan(asked.point).placement.count > 1

    def _record(
        self,
        trial_id: str,
        asked: Asked,
        result: dict[str, Any] | None,
        error: bool,
        seconds: float,
    ) -> Record:
        runtime = self._executor.experiment.space.plan(asked.point).runtime
        if trial_id in self._stopped:
            reason, rung = self._stopped.pop(trial_id)
            record = failed(asked, runtime, reason, seconds)
            own = {k: m for k, m in rung.found.items() if k not in _estimated(self._executor, rung)}
            return dataclasses.replace(record, state="pruned", measurements=own)
        message = json.loads(result["message"]) if result and not error else {}
        if "result" in message:
            return Record.from_json(message["result"])
        reason = message.get("failed") or self._faults.get(trial_id, LOST)
        return failed(asked, runtime, reason, seconds)

    @contextlib.contextmanager
    def _errors_kept(self) -> Iterator[None]:
        """Keep an error until Tune has ended: raised here, it would be swallowed or wrapped."""
        try:
            yield
        except SearchError as error:
            self.error = error


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__


def _estimated(executor: RayTune, rung: Rung) -> set[str]:
    """Return the objectives that a rung knows by an estimate only."""
    return {g.name for g in executor.experiment.goals if g.objective.trained} & set(rung.found)


class Stopping(FIFOScheduler):  # type: ignore[misc]
    """Stops trials that the feed judges to be behind; the order is the study's."""

    def __init__(self, searcher: Asking) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note why a trial's worker failed: the searcher is told that it did, but not why."""
        self._searcher.fell(trial.trial_id, trial.get_error())

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop a trial at its rung, or let it go on."""
        stop = self._searcher.judge(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class Watching(tune.Callback):  # type: ignore[misc]
    """Tells the searcher which trials have got their resources, and lets it look for stuck ones."""

    def __init__(self, searcher: Asking) -> None:
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that starts."""
        self._searcher.started(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End the search when what it waits for has left the cluster."""
        self._searcher.check_waiting()


@ray.remote(max_retries=1)  # type: ignore[untyped-decorator]
def _confirm(station: Station, threads: int, lines: list[str]) -> dict[str, Any]:
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
    local = Local(experiment=experiment, folder=run, threads=threads)
    return local.confirm(records, lambda stage, done, of, detail: None)


def _machines() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _connect(address: str | None, cores: int, experiment: Experiment) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        with _quiet():
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        return
    if address.startswith("ray://"):
        raise BadEnvironment(
            f"--ray {address} is a client's address; run the search on a machine of the cluster, "
            "for instance with `ray job submit`, and give --ray auto"
        )
    try:
        _reached(address)
        with _quiet():
            ray.init(address=address, **quiet)
            if len(_machines()) > 1:
                ray.shutdown()
                ray.init(address=address, runtime_env=Station.environment(experiment), **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadEnvironment(f"no Ray cluster answers at {address}: {reason}") from error


def _reached(address: str) -> None:
    """Raise OSError when nobody listens at an address: Ray itself would try for five minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Ray says of itself: the search has its own console."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's files lie in the current folder
    }
    before = dict(os.environ)
    os.environ.update(settings)
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # failed trials are told of by the study
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for name in settings:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
