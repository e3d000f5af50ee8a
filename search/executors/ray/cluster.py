"""Join or start a Ray cluster, without Ray's output; must be imported before Ray itself."""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
# Ray 2.58 and later warn of a change that does not affect requests which state their GPUs.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Skips every line: Ray prints a worker's death to stdout whatever its logging level is.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray

from search.errors import BadEnvironment
from search.executors.ray.shipping import Workspace
from search.experiment import Experiment


def connect(address: str | None, cores: int, experiment: Experiment) -> None:
    """Join the cluster at an address, or start one on this machine if `address` is None.

    Raises BadEnvironment if no cluster answers.
    """
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        with quiet():
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **options)
        return
    if address.startswith("ray://"):
        raise BadEnvironment(
            f"--ray {address} is a client's address; run the search on a machine of the cluster, "
            "for instance with `ray job submit`, and give --ray auto"
        )
    try:
        _require_listener(address)
        with quiet():
            ray.init(address=address, **options)
            if len(machines()) > 1:
                ray.shutdown()
                ray.init(address=address, runtime_env=Workspace.environment(experiment), **options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadEnvironment(f"no Ray cluster answers at {address}: {reason}") from error


def open_access_warning(address: str | None) -> str | None:
    """Return a warning if the cluster to be started lets anyone in who can reach it, else None."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if address is not None or mode == "token":
        return None
    return (
        f"warning: RAY_AUTH_MODE={mode} lets anyone who can reach this machine run code in the "
        "search's Ray cluster; unset it, and a token is demanded"
    )


def machines() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster."""
    return [node["Resources"] for node in alive()]


def alive() -> list[dict[str, Any]]:
    """Return Ray's descriptions of the live machines of the cluster."""
    return [node for node in ray.nodes() if node["Alive"]]


def last_line(error: BaseException | str) -> str:
    """Return the last line of an error from Ray, or of its text; the others are a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__


def _require_listener(address: str) -> None:
    """Raise OSError if nothing listens at an address: Ray itself would retry for five minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Ray's own output, as the search has its own console."""
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
    logger.setLevel(logging.CRITICAL)  # the study reports failed trials
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
