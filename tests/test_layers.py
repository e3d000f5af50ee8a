"""The layout: imports point down and name faces, catalogues hold entries alone."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import catalogue
from search.errors import BadEnvironment
from spaces import resolve

ROOT = Path(__file__).parents[1]
ORDER = ("spaces", "objectives", "search")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in (*ORDER, "experiments")
    for path in (ROOT / top).rglob("*.py")
}
"""Every file of the product and of the experiments by its module's name."""
PACKAGES = {name for name, path in FILES.items() if path.name == "__init__.py"}
PLACES = {kind: entries.package for kind, entries in catalogue.CATALOGUES.items()}
ENTRIES = {
    f"{package}.{name}" for kind, package in PLACES.items() for name in catalogue.names(kind)
}


EXTRAS = {"lightning", "timm", "torchvision", "xla"}
"""Entries whose libraries the tests do not need."""


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name imported from it) for each import of a file, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node.module, alias.name) for alias in node.names)


def package_of(module: str) -> str:
    """Return the package that a module of ours lies in, a package itself for its face."""
    return module if module in PACKAGES else module.rpartition(".")[0]


def exported(package: str) -> set[str]:
    """Return the names in the `__all__` of a package."""
    for node in ast.parse(FILES[package].read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    for path in (ROOT / package).rglob("*.py"):
        assert not {module.split(".")[0] for module, _ in imports(path)} & above, path


def test_other_packages_import_a_face() -> None:
    """A file sees its own package's files and those of the packages around it; else faces."""
    for name, path in FILES.items():
        mine = package_of(name)
        for module, wanted in imports(path):
            if module not in FILES or f"{mine}.".startswith(f"{package_of(module)}."):
                continue
            if f"{module}.{wanted}" in ENTRIES or module in ENTRIES:
                continue  # an entry of a catalogue is public
            assert module in PACKAGES, f"{path} imports the file {module}, not its package"
            known = exported(module) | {m.rpartition(".")[2] for m in PACKAGES}
            assert wanted in known, f"{path}: {module} does not offer {wanted}"


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for name, path in FILES.items():
        for module, wanted in imports(path):
            target = f"{module}.{wanted}" if f"{module}.{wanted}" in FILES else module
            if target not in FILES:
                continue
            mine, other = package_of(name), package_of(target)
            around = f"{mine}.".startswith(f"{other}.") or f"{other}.".startswith(f"{mine}.")
            if not around:
                graph.setdefault(mine, set()).add(other)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("kind", PLACES)
def test_a_catalogue_folder_holds_entries_and_nothing_else(kind: str) -> None:
    """Every file and every package in it is a name that has one class of the catalogue's kind."""
    folder = catalogue.home(PLACES[kind])
    found = {path.name for path in folder.iterdir()} - {"__init__.py", "__pycache__", "README.md"}
    names = catalogue.names(kind)
    tops = {name.split(".")[0] for name in names}
    assert {name.removesuffix(".py") for name in found} == tops
    base = resolve(catalogue.CATALOGUES[kind].base)
    for name in names:
        try:
            assert issubclass(catalogue.entry(kind, name), base)
        except BadEnvironment:  # its library is an extra that is not installed
            assert name in EXTRAS


@pytest.mark.parametrize(("library", "home"), [("mlflow", "search/tracking")])
def test_one_package_imports_a_library(library: str, home: str) -> None:
    users = [
        path.relative_to(ROOT).parent
        for package in ORDER
        for path in (ROOT / package).rglob("*.py")
        if library in {module.split(".")[0] for module, _ in imports(path)}
    ]
    assert set(users) == {Path(home)}


def test_one_file_asks_and_tells_the_study() -> None:
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name != "optuna_trials.py":
                assert "optuna.storages" not in text, path
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
