"""A run's study in Optuna's own tools: the dashboard, tables, importances."""

import json
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from _answers import answer, opened
from optuna_dashboard import wsgi


class Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def storage(project: Path) -> optuna.storages.RDBStorage:
    """The study of a search of 20 points."""
    study = opened(project)
    for _ in range(20):
        asked = study.ask()
        assert asked is not None
        study.tell(asked, answer(asked))
    return optuna.storages.RDBStorage(f"sqlite:///{project / 'run' / 'study.db'}")


@pytest.fixture
def server(storage: optuna.storages.RDBStorage) -> Iterator[str]:
    """The dashboard on the study, served on this machine."""
    with make_server("127.0.0.1", 0, wsgi(storage), handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as page:
        return str(page.read().decode())


def test_the_dashboard_shows_values_and_names_of_objectives(server: str) -> None:
    (study,) = json.loads(read(f"{server}/api/studies"))["study_summaries"]
    trials = json.loads(read(f"{server}/api/studies/{study['study_id']}?after=0"))["trials"]
    shown: dict[str, set[str]] = {}
    for param in (p for trial in trials for p in trial["params"]):
        shown.setdefault(param["name"], set()).add(param["param_external_value"])
    assert {float(v) for v in shown["prune.channels.ratio"]} == {0.0, 0.25, 0.5}
    assert shown["quantize.integer.weight_bits"] == {"8", "32"}
    assert shown["deploy.runtime.name"] == {"eager", "null"}
    header, *_ = read(f"{server}/csv/{study['study_id']}").splitlines()
    assert {"accuracy", "latency", "size"} <= set(header.split(","))


def test_tables_and_importances_read_well(storage: optuna.storages.RDBStorage) -> None:
    study = optuna.load_study(study_name="tiny", storage=storage)
    frame = study.trials_dataframe()
    assert set(frame["params_prune.channels.ratio"]) == {0.0, 0.25, 0.5}
    assert set(frame["params_deploy.runtime.name"]) == {"eager", "null"}
    with warnings.catch_warnings():  # it says that low values are what is wanted, as they are
        warnings.simplefilter("ignore", UserWarning)
        weights = optuna.importance.get_param_importances(study, target=lambda t: t.values[1])
    # answers are faster the more is pruned and the fewer bits there are, whatever else is asked
    decisive = weights["prune.channels.ratio"] + weights["quantize.integer.weight_bits"]
    assert decisive > 0.5
