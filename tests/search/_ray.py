"""What tests that start Ray share: executors on a cluster, and users with a clean environment."""

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex * 2)

from search.executors.ray.executor import RayTune  # isort: skip  # before Ray itself

from ray.cluster_utils import Cluster

from search.experiment.experiment import Experiment
from search.records.record import Record
from search.study.queue import Queue
from search.study.study import Study
from spaces import Point


@contextlib.contextmanager
def connected(project: Path, cluster: Cluster, trials: int, workers: int) -> Iterator[RayTune]:
    """An executor for the tiny experiment, on the cluster."""
    experiment = Experiment.load(project / "experiment.toml")
    run = project / "run"
    run.mkdir()
    executor = RayTune(
        experiment=dataclasses.replace(experiment, trials=trials),
        folder=run,
        address=cluster.address,
        workers=workers,
        cores=2,
    )
    executor.prepare()
    try:
        yield executor
    finally:
        executor.close()


def in_a_trial(project: Path, code: str) -> None:
    """Let model() first run `code`, in the processes of trials only."""
    task = project / "task.py"
    own = (
        f"import os\n    if os.getpid() != {os.getpid()}:\n        {code}\n    torch.manual_seed(0)"
    )
    task.write_text(task.read_text().replace("torch.manual_seed(0)", own))


def opened(
    executor: RayTune, told: Callable[[Record], None], kind: type[Queue] = Queue
) -> tuple[Study, Queue]:
    """Return a new study of an executor's experiment, and its feed."""

    def refuse(point: Point) -> str | None:
        plan = executor.experiment.space.plan(point)
        return executor.refusal(plan, frozenset({"Linear", "ReLU"}))

    study = Study.open(executor.folder, executor.experiment, refuse)
    feed = kind(
        study,
        seconds=None,
        on_record=told,
        on_start=lambda asked: None,
        progress=lambda *message: None,
    )
    return study, feed


def searched(executor: RayTune, told: Callable[[Record], None] = lambda record: None) -> Study:
    """Return the study after a search."""
    study, feed = opened(executor, told)
    executor.run(feed)
    assert feed.open == {}
    return study


TOKENLESS = """
import sys
from ray._raylet import GcsClient
try:
    print(len(GcsClient(address=sys.argv[1]).get_all_node_info()), "machine")
except Exception as error:
    print(type(error).__name__)
"""
GUARDED = """
import os, subprocess, sys
from search.executors.ray.cluster import connect, open_access_warning
connect(None, 1, None)
import ray
assert open_access_warning(None) is None
for mode in ("token", "disabled"):
    command = [sys.executable, "-c", os.environ["TOKENLESS"]]
    command.append(ray.get_runtime_context().gcs_address)
    own = os.environ | {"RAY_AUTH_MODE": mode}
    print(mode, subprocess.check_output(command, env=own, text=True))
ray.shutdown()
"""


def clean(project: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing of Ray's."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return own | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(project),
        "MLFLOW_TRACKING_URI": f"sqlite:///{project / 'mlflow.db'}",
    }
