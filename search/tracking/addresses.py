"""Where a study is tracked: the address, its web page, and how to talk to it without noise."""

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
"""A search must not wait minutes for its diary; whoever sets these variables wins."""
SQLITE = "sqlite:///"
EXPERIMENT = "paretune"


def default_store() -> str:
    """Return MLFLOW_TRACKING_URI, or a database in the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path.cwd() / 'mlflow.db'}"


def is_server(store: str) -> bool:
    """Whether an address is a server's rather than a file's or database's."""
    return urlsplit(store).scheme in ("http", "https", "databricks")


def artifact_location(store: str) -> str | None:
    """Return where a store's artifacts go: beside a local database; None lets the server say.

    Left to itself MLflow takes whatever folder the search happens to be started from.
    """
    if not store.startswith(SQLITE):
        return None
    return (Path(store.removeprefix(SQLITE)).parent.resolve() / "mlartifacts").as_uri()


def ui_command(store: str, port: int = 5000) -> list[str]:
    """Return the command that serves a store's web page, on this machine only."""
    if is_server(store):
        raise BadEnvironment(f"{redact(store)} is a server already: open it in a browser.")
    options = {"--backend-store-uri": store, "--host": "127.0.0.1", "--port": str(port)}
    words = [word for pair in options.items() for word in pair]
    return [sys.executable, "-m", "mlflow", "server", *words, "--workers", "1"]


def ui_page(server: str, experiment: str, run: str | None = None) -> str:
    """Return the address of a study's page, or of all runs, in the view for model training."""
    place = f"experiments/{experiment}/runs" + (f"/{run}" if run else "")
    return f"{redact(server).rstrip('/')}/#/{place}?workflowType=machine_learning"


def ui_environment() -> dict[str, str]:
    """Return the variables under which the page is served.

    No telemetry, no background jobs, no deprecations inside MLflow's own libraries.
    """
    quiet = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }
    return quiet | dict(os.environ)


def redact(text: str) -> str:
    """Return text without the user and password of any address in it."""
    return re.sub(r"(://)[^/\s@]+@", r"\1***@", text)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep MLflow's and its migrations' remarks off the console; errors still raise.

    So are deprecations inside MLflow's own libraries: nothing else runs in here.
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
class Run:
    """What is known to stand in the store of one run."""

    id: str
    status: str
    name: str
    started: int
    params: dict[str, str] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    steps: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many steps of a curve it holds, as far as asked."""


def experiment_id(client: Any, store: str) -> str:
    """Return the id of the project's experiment, created or restored if need be."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        place = artifact_location(store)
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(EXPERIMENT, artifact_location=place, tags=tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def known(run: Any) -> Run:
    """Return what a run read from the store holds."""
    return Run(
        id=run.info.run_id,
        status=run.info.status,
        name=run.info.run_name,
        started=run.info.start_time,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )
