"""The README stays short and true: its commands parse, its files and names exist."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

import search
from search import catalogue
from search.cli import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python -m search[^\n`#&]*", README)


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120
    assert max(map(len, README.splitlines())) <= 120


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command)[3:]
    assert words, "a bare `python -m search` is no command"
    parsed = parser.parser().parse_args(words)
    assert callable(parsed.do)


def test_every_command_runs_in_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q -c constraints.txt -e '.[test]'" in script
    assert "python -m pytest" in script.splitlines()[-1]
    for name in {shlex.split(c)[3] for c in COMMANDS}:
        assert f"python -m search {name}" in script, name


def test_every_file_and_entry_it_names_exists() -> None:
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"^\[space\.([\w.]+)\]", README, flags=re.MULTILINE):
        assert name in catalogue.names("technique"), name
    for name in re.findall(r"^\[objectives\.(\w+)\]", README, flags=re.MULTILINE):
        assert name in catalogue.names("objective"), name


def test_its_experiment_is_one(project: Path) -> None:
    """The experiment of the README is read as it stands, beside a task."""
    (text,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    experiment = search.Experiment.parse(text, project)
    assert [goal.name for goal in experiment.objectives] == ["accuracy", "latency"]


def test_its_python_calls_exist() -> None:
    """Every name that the README takes from `search` is offered, with these arguments."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    block = next(text for text in blocks if "import search" in text)
    for call in (node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Attribute(value=ast.Name(id="search"), attr=name):
                offered = inspect.signature(getattr(search, name))
                offered.bind(*call.args, **{k.arg: k.value for k in call.keywords if k.arg})
            case ast.Attribute(value=ast.Name(id="result"), attr=name):
                assert hasattr(search.Result, name)


def test_nothing_else_lies_at_the_top() -> None:
    allowed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "search",
        "spaces",
        "objectives",
        "tests",
        "experiments",
        "runs",
        "build",
    }
    for path in ROOT.iterdir():
        hidden = path.name.startswith(".") or path.suffix == ".egg-info"
        assert hidden or path.name in allowed or path.name.startswith("ml"), path


def test_the_log_has_an_index_of_its_entries() -> None:
    index, *entries = (ROOT / "experiments" / "LOG.md").read_text().split("\n## ")
    titles = [entry.partition("\n")[0] for entry in entries]
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    assert re.findall(r"\(#([^)]+)\)", index) == anchors
