"""The layout: imports point down, one concept a file, one library a file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("spaces", "objectives", "search")


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path) & above, path


@pytest.mark.parametrize(("library", "home"), [("mlflow", "search/tracking/mlflow_store.py")])
def test_one_file_imports_a_library(library: str, home: str) -> None:
    users = [
        str(path.relative_to(ROOT))
        for package in ORDER
        for path in (ROOT / package).rglob("*.py")
        if library in imported(path)
    ]
    assert users == [home]


def test_one_file_asks_and_tells_optuna() -> None:
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name != "optuna_trials.py":
                assert "optuna.create_study" not in text, path
                assert "enqueue_trial" not in text, path


def test_functions_stay_short_and_nothing_unpickles() -> None:
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            assert "pickle.load" not in text, path
            assert "weights_only=False" not in text, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno < 60, f"{path}:{node.lineno}"
