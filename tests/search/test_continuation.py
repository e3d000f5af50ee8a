"""A run is continued only as what it was: changes are told and refused, or forced and noted."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _machines import Imagined, Machine
from test_driver import Silent, Slower

from objectives import cached
from search import run_folder
from search.checks import inspect_model
from search.driver import Search
from search.errors import BadEnvironment, BadRun
from search.experiment.experiment import Experiment
from search.origin.code import code_of
from search.origin.continuation import changes_since
from search.origin.origin import Origin
from search.reporting.console import Console
from search.reporting.summary import Summary
from search.reporting.wording import trust

SEEDED = """
from pathlib import Path

FOLDER = Path(__file__).parent
"""
"""Makes the task's weights and samples depend on files beside it."""

Run = Callable[..., Summary]


@pytest.fixture
def project(project: Path) -> Path:
    """A task whose weights and samples follow from files beside it."""
    text = (project / "task.py").read_text()
    text = text.replace("manual_seed(0)", 'manual_seed(int((FOLDER / "weights").read_text()))')
    text = text.replace(
        "    targets = inputs[:, :3].argmax(1)\n",
        '    inputs[int((FOLDER / "sample").read_text())] = 1.0\n'
        "    targets = inputs[:, :3].argmax(1)\n",
    )
    (project / "task.py").write_text(SEEDED + text)
    (project / "weights").write_text("0")
    (project / "sample").write_text("0")
    return project


@pytest.fixture
def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What begins or continues a search of the tiny experiment on an imagined machine."""
    monkeypatch.setattr("search.reporting.html.write", lambda folder, summary: None)  # takes long

    def go(trials: int = 2, force: bool = False, **fields: Any) -> Summary:
        experiment = Experiment.load(project / "experiment.toml")
        experiment = dataclasses.replace(experiment, trials=trials, **fields)
        (project / "run").mkdir(exist_ok=True)
        return Search(
            experiment=experiment,
            folder=project / "run",
            executor=Imagined(experiment, project / "run", Machine(Slower(), drift=1.0)),
            tracker=Silent,
            console=Console(quiet=True),
            command="",
            force=force,
        ).run()

    return go


def edit(file: Path, *pairs: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def environment(project: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project / "run" / "environment.json").read_text())
    return content


def test_a_larger_budget_comments_and_the_main_block_are_no_change(run: Run, project: Path) -> None:
    run()
    edit(project / "task.py", ("def model():", "# The network.\ndef model( ):"))
    with (project / "task.py").open("a") as file:
        file.write('\n\nif __name__ == "__main__":\n    print("searching")\n')
    summary = run(trials=5, time=1000.0)
    assert len(summary.records) >= 5
    assert not any(r.facts.continued_with for r in summary.records)


def test_a_changed_task_is_refused_and_its_functions_are_named(run: Run, project: Path) -> None:
    before = len(run().records)
    edit(project / "task.py", ("argmax(1)", "argmin(1)"))
    with pytest.raises(BadRun, match=r"task\.py changed \(batches\).*--force") as caught:
        run(trials=5)
    assert "\n" not in str(caught.value)
    assert len(run_folder.read_records(project / "run")) == before


def test_what_is_forced_stands_in_each_record_after_it(run: Run, project: Path) -> None:
    first = [r.trial for r in run().records]
    (project / "run" / "cache" / "train").mkdir(parents=True)
    edit(project / "task.py", ("argmax(1)", "argmin(1)"))
    forced = run(trials=5, force=True)
    assert not (
        project / "run" / "cache" / "train"
    ).exists()  # trained on what is no longer the task
    later = run(trials=6)  # what was forced once is the run from then on
    for summary in (forced, later):
        for record in summary.records:
            said = record.facts.continued_with
            assert said == (None if record.trial in first else ("task.py changed (batches)",))
        assert "task.py changed (batches)" in trust(summary)[-1]
    (entry,) = environment(project)["continued"]
    assert entry["from_trial"] == max(first) + 1
    assert entry["changes"] == ["task.py changed (batches)"]
    stored = run_folder.read_records(project / "run")
    assert stored[-1].facts.continued_with == ("task.py changed (batches)",)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("weights", "the weights that model() returns changed"),
        ("sample", "the samples that batches() yields changed (train, validation, test)"),
    ],
)
def test_other_weights_and_other_samples_are_refused(
    run: Run, project: Path, file: str, said: str
) -> None:
    run()
    (project / file).write_text("7")
    with pytest.raises(BadRun) as caught:
        run(trials=5)
    assert said in str(caught.value)


def test_a_sample_far_back_in_a_split_that_trials_stored_is_seen(run: Run, project: Path) -> None:
    run()
    experiment = Experiment.load(project / "experiment.toml")
    cached(experiment.task, "validation", project / "run" / "cache" / "data")
    (project / "sample").write_text("90")
    after = Origin.of(experiment, inspect_model(experiment)[1])
    before = environment(project)["made_from"]
    same = dataclasses.replace(after, samples=before["samples"])
    assert [c.text for c in changes_since(project / "run", experiment, same)][-1] == (
        "the samples that batches() yields changed (validation)"
    )


def test_samples_that_no_two_readings_share_are_told_and_not_refused(
    run: Run, project: Path
) -> None:
    edit(
        project / "task.py",
        ("manual_seed(seed))", "manual_seed(seed))\n    inputs += torch.rand(1)"),
        ("import torch\n", "import torch\nDRAWS = []\n"),
        ("torch.rand(1)", "DRAWS.append(1) or len(DRAWS)"),
    )
    run()
    experiment = Experiment.load(project / "experiment.toml")
    origin = Origin.of(experiment, inspect_model(experiment)[1])
    changes = list(changes_since(project / "run", experiment, origin))
    assert len(changes) == 3
    assert all(c.harmless and "other samples at each reading" in c.text for c in changes)


@pytest.mark.parametrize(
    ("package", "version", "refused"),
    [
        ("torch", "1.0.0", "torch was 1.0.0 and is "),
        ("optuna", None, "optuna was not installed and is "),
        ("python", "3.9.1", "python was 3.9.1 and is "),
        ("python", "{minor}.99", None),
    ],
)
def test_other_versions_are_refused_but_for_a_patch_of_python(
    run: Run, project: Path, package: str, version: str | None, refused: str | None
) -> None:
    run()
    content = environment(project)
    versions = content["made_from"]["versions"]
    minor = versions["python"].rpartition(".")[0]
    if version is None:
        del versions[package]
    else:
        versions[package] = version.replace("{minor}", minor)
    (project / "run" / "environment.json").write_text(json.dumps(content))
    if refused is None:
        run(trials=4)
        return
    with pytest.raises(BadRun) as caught:
        run(trials=4)
    assert refused in str(caught.value)


def test_another_limit_is_told_and_can_be_forced(run: Run, project: Path) -> None:
    run()
    edit(project / "experiment.toml", ("[objectives.size]", "[objectives.size]\nat_most = 9999"))
    said = "objectives.size.at_most was not set and is 9999"
    with pytest.raises(BadRun, match=said):
        run(trials=4)
    summary = run(trials=4, force=True)
    assert "size.at_most" in summary.limits
    assert summary.records[-1].facts.continued_with == (said,)
    assert run_folder.reopen(project / "run").objectives[-1].at_most == 9999


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ratio = [0.0, 0.25, 0.5]", "ratio = [0.0, 0.5]", "space.prune.channels.ratio was"),
        ("[objectives.size]", "", "objectives.size was the default and is not set"),
        ("[task.python]", "[target]\nthreads = 2\n[task.python]", "target.threads was 1 and is 2"),
    ],
)
def test_records_that_cannot_be_compared_are_not_in_one_run_even_by_force(
    run: Run, project: Path, old: str, new: str, said: str
) -> None:
    run()
    edit(project / "experiment.toml", (old, new))
    with pytest.raises(BadRun) as caught:
        run(trials=4, force=True)
    assert said in str(caught.value)
    assert "--out" in str(caught.value)


def test_a_run_of_an_earlier_version_goes_on_and_is_recorded_from_then_on(
    run: Run, project: Path
) -> None:
    run()
    content = environment(project)
    del content["made_from"]
    (project / "run" / "environment.json").write_text(json.dumps(content))
    run(trials=4)
    assert environment(project)["made_from"]["weights"]


def test_imports_beside_the_task_belong_to_it(project: Path) -> None:
    (project / "nets").mkdir()
    (project / "nets" / "__init__.py").write_text("")
    (project / "nets" / "small.py").write_text("from . import parts\n")
    (project / "nets" / "parts.py").write_text("import helper\n")
    (project / "helper.py").write_text("print 'of another Python'\n")
    (project / "unused.py").write_text("import task\n")
    edit(project / "task.py", ("import torch\n", "import torch\nfrom nets import small\n"))
    files = set(code_of(Experiment.load(project / "experiment.toml")))
    assert files == {"task.py", "nets/__init__.py", "nets/small.py", "nets/parts.py", "helper.py"}


@pytest.mark.parametrize("place", ["taken", "taken/run", "/proc/run"])
def test_an_out_folder_that_cannot_be_written_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "taken").write_text("a file")
    with (
        pytest.raises(BadEnvironment, match=r"cannot be written.*--out") as caught,
        run_folder.locked(tmp_path / place),
    ):
        pass
    assert "\n" not in str(caught.value)
