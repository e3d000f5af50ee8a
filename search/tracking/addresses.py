"""Addresses of a study in MLflow: store, artifacts, web page, experiment and runs."""

import contextlib
import dataclasses
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from search.errors import BadEnvironment

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Short MLflow timeouts, so that a search does not wait minutes; the user's variables win."""
SQLITE = "sqlite:///"
EXPERIMENT = "paretune"


def default_store() -> str:
    """Return MLFLOW_TRACKING_URI, or the address of a database in the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path.cwd() / 'mlflow.db'}"


def is_server(store: str) -> bool:
    """True if an address is a server's rather than a file's or a database's."""
    return urlsplit(store).scheme in ("http", "https", "databricks")


def artifact_location(store: str) -> str | None:
    """Return the location of artifacts: beside a local database, or None to leave it to the server.

    MLflow's own default is the folder in which the search happens to start.
    """
    if not store.startswith(SQLITE):
        return None
    return (Path(store.removeprefix(SQLITE)).parent.resolve() / "mlartifacts").as_uri()


def ui_command(store: str, port: int = 5000) -> list[str]:
    """Return the command that serves a store's web page on the loopback address.

    Raises BadEnvironment if the store is a server already.
    """
    if is_server(store):
        raise BadEnvironment(f"{redact(store)} is a server already: open it in a browser.")
    options = {"--backend-store-uri": store, "--host": "127.0.0.1", "--port": str(port)}
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "mlflow", "server", *words, "--workers", "1"]


def ui_page(server: str, experiment: str, run: str | None = None) -> str:
    """Return the web address of all runs, or of the saved view of the study with the run `run`."""
    view = f"&viewStateShareKey={view_key(run)}" if run else ""
    return f"{_page(server, experiment)}?workflowType=machine_learning{view}"


def ui_summary(server: str, experiment: str, run: str) -> str:
    """Return the web address of a study's own run: description, picks, report and curves."""
    return f"{_page(server, experiment)}/{run}?workflowType=machine_learning"


def _page(server: str, experiment: str) -> str:
    return f"{redact(server).rstrip('/')}/#/experiments/{experiment}/runs"


def view_key(run: str) -> str:
    """Return the key of a study's saved view, by the id of the study's run."""
    return f"study-{run[:12]}"


def ui_environment() -> dict[str, str]:
    """Return the environment variables for serving the web page.

    They turn off telemetry, background jobs and deprecation warnings in MLflow's own libraries.
    """
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }
    return quiet | dict(os.environ)


def redact(text: str) -> str:
    """Return the text without user and password in its addresses."""
    return re.sub(r"(://)[^/\s@]+@", r"\1***@", text)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silence log messages and deprecation warnings of MLflow's libraries; errors still raise.

    Nothing but MLflow runs in this context.
    """
    names = ("mlflow", "alembic", "urllib3.connectionpool")
    levels = {name: logging.getLogger(name).level for name in names}
    absent = {key: value for key, value in PATIENCE.items() if key not in os.environ}
    os.environ.update(absent)
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for key in absent:
            os.environ.pop(key, None)


@dataclasses.dataclass
class StoredRun:
    """Content of one run in the store, as far as it is known."""

    id: str
    status: str
    name: str
    started: int
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    steps: dict[str, int] = dataclasses.field(default_factory=dict)
    """Number of stored steps of each curve, as far as it is known."""


def experiment_id(client: Any, store: str) -> str:
    """Return the id of the project's experiment, which is created or restored if necessary."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        location = artifact_location(store)
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def stored_run(run: Any) -> StoredRun:
    """Return the content of a run that MLflow has returned."""
    return StoredRun(
        id=run.info.run_id,
        status=run.info.status,
        name=run.info.run_name,
        started=run.info.start_time,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )
