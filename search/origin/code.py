"""Digests of the user's Python files, one for each function and class.

Comments, formatting and what stands under `if __name__ == "__main__":` do not count: none of them
changes what a trial does.
"""

import ast
import contextlib
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.experiment import BUDGET, Experiment

Code = dict[str, dict[str, str]]
"""Digest of each function and class by file and name; "" has the file's other statements."""
_FILE = re.compile(r"(?P<file>.+\.py)(:\w+)?")
_MODULE = re.compile(r"(?P<module>\w[\w.]*):\w+")
_MAIN = "__name__ == '__main__'"


def code_of(experiment: Experiment) -> Code:
    """Return the digests of the files that an experiment names, and of those that they import.

    Only imports from the folder of a named file are followed. Files inside the experiment's folder
    are named relative to it.
    """
    files: dict[Path, None] = {}
    for root in _named_files(experiment):
        _add_with_imports(root, root.parent, files)
    return {_name(file, experiment.folder): _parts(file) for file in files}


def _named_files(experiment: Experiment) -> Iterator[Path]:
    """Yield the files of the user's own task, techniques, runtimes and objectives."""
    settings = {k: v for k, v in experiment.to_json().items() if k not in BUDGET}
    for text in _texts(settings):
        if match := _FILE.fullmatch(text):
            file = experiment.folder / match["file"]
            if file.is_file():
                yield file.resolve()
        elif match := _MODULE.fullmatch(text):
            spec = None
            with contextlib.suppress(ImportError, ValueError):  # some other text with a colon
                spec = importlib.util.find_spec(match["module"])
            if spec is not None and spec.has_location and str(spec.origin).endswith(".py"):
                yield Path(str(spec.origin)).resolve()


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        yield from (text for item in tree.items() for part in item for text in _texts(part))
    elif isinstance(tree, list | tuple):
        yield from (text for part in tree for text in _texts(part))


def _add_with_imports(file: Path, folder: Path, files: dict[Path, None]) -> None:
    """Add a file, and the files of `folder` that it imports, directly or through others."""
    if file in files:
        return
    files[file] = None
    for module in _imported(_tree(file), file, folder):
        for found in (module.with_suffix(".py"), module / "__init__.py"):
            if found.is_file():
                _add_with_imports(found, folder, files)


def _imported(tree: ast.AST, file: Path, folder: Path) -> Iterator[Path]:
    """Yield the paths, without a suffix, of modules that may lie in `folder`.

    A name that is imported from a package may be a module of it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _levels(folder, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = file.parents[node.level - 1] if node.level else folder
            yield from _levels(base, node.module or "")
            package = base.joinpath(*filter(None, (node.module or "").split(".")))
            yield from (package / alias.name for alias in node.names if alias.name != "*")


def _levels(base: Path, module: str) -> Iterator[Path]:
    """Yield the paths of a module and of the packages around it."""
    for part in filter(None, module.split(".")):
        base = base / part
        yield base


def _parts(file: Path) -> dict[str, str]:
    parts: dict[str, list[str]] = {}
    for node in _tree(file).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == _MAIN:
            continue
        name = ""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        parts.setdefault(name, []).append(ast.unparse(node))
    return {
        name: hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
        for name, texts in parts.items()
    }


def _tree(file: Path) -> ast.Module:
    """Return the syntax tree of a file; one that is not Python of this version is one constant."""
    content = file.read_bytes()
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError):
        return ast.Module(body=[ast.Expr(ast.Constant(content))], type_ignores=[])


def _name(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)
