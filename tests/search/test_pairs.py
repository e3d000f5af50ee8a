"""Every pair of techniques: built, trained for a few steps, exported, loaded again and scored."""

import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from _pairs import RUNTIMES, SETTINGS, experiment, matrix, pairs, point, refused

from search.evaluation import TrialContext, evaluate
from search.experiment.experiment import Experiment
from search.measuring.server import MeasurementServer

EXPERIMENTS = (Path(__file__).parents[2] / "experiments" / "README.md").read_text()
Shared = tuple[Experiment, Path, Callable[[str], MeasurementServer]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """An experiment over all techniques, a run folder whose stages are cached, and lanes.

    A lane begins once its runtime is imported: each of its measurements would import it anew.
    """
    folder, lanes, threads = tmp_path_factory.mktemp("pairs"), {}, torch.get_num_threads()
    given = experiment(folder)
    torch.set_num_threads(1)  # for networks this small, more only wait for one another

    def lane(runtime: str) -> MeasurementServer:
        given.runtime(runtime)
        if runtime not in lanes:
            lanes[runtime] = MeasurementServer()
        return lanes[runtime]

    yield given, folder / "run", lane
    torch.set_num_threads(threads)
    for made in lanes.values():
        made.close()


CASES = [
    pytest.param(
        pair,
        runtime,
        id=f"{'-'.join(pair)}-{runtime}",
        # of all pairs, CI runs those with fewer bits in eager
        marks=(pytest.mark.slow, pytest.mark.ci)
        if runtime == "eager" and "quantize" in str(pair) and "placement" not in str(pair)
        else pytest.mark.slow,
    )
    for runtime in RUNTIMES
    for pair in pairs()
]


@pytest.mark.parametrize(("pair", "runtime"), CASES)
def test_a_pair_reaches_its_measurements_or_is_refused_with_a_reason(
    shared: Shared,
    pair: tuple[str, str],
    runtime: str,
    request: pytest.FixtureRequest,
) -> None:
    given, run, lanes = shared
    lane = lanes(runtime)  # before OpenVINO is asked what it can: its threads survive no fork
    if reason := refused(given, pair, runtime):
        assert re.fullmatch(r"\S.{15,300}", reason)
        return
    trial = [c.id for c in CASES].index(request.node.callspec.id)
    bench = TrialContext(
        experiment=given, folder=run, trial=trial, server=lane, progress=lambda *news: None
    )
    record = evaluate(bench, point(given, pair, runtime))
    assert (record.state, record.reason) == ("complete", None)
    assert 0 <= record.measurements["accuracy"].value <= 1  # the task refuses what is not finite
    asked = record.point
    for name in pair:
        assert any(asked[f"{name}.{field}"] == value for field, value in SETTINGS[name].items())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the matrix is of x86 CPUs")
def test_the_matrix_of_pairs_is_true(tmp_path: Path) -> None:
    """Of the techniques that it names; `python tests/search/_pairs.py` prints it anew."""
    shown = EXPERIMENTS[EXPERIMENTS.index("| | `") :].partition("\n\n")[0]
    names = set(re.findall(r"`([\w.]+)`", shown))
    assert len(names) > 8
    assert "\n".join(matrix(experiment(tmp_path), names)) == shown.strip()
