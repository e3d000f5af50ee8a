"""Builds each recipe in a process of its own: a crash costs one row, not the comparison."""

import concurrent.futures
import importlib
import logging
import multiprocessing
import os
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import _workload
from peers._plain import Skipped

SAMPLES = 256
"""Training samples of calibration."""


def names() -> list[str]:
    """Return the recipes: the files of peers/, the uncompressed model first."""
    folder = Path(__file__).parent / "peers"
    found = sorted(path.stem for path in folder.glob("[!_]*.py"))
    return sorted(found, key=lambda name: name != "eager")


def recipe(name: str) -> Any:
    """Return the module of a recipe."""
    return importlib.import_module(f"peers.{name}")


def build(name: str, workload: Path, folder: Path) -> dict[str, Any]:
    """Build a recipe into `folder`; return its title, state, reason and seconds.

    The state is built, skipped or failed.
    """
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(_build, name, workload, folder).result()
        except BrokenProcessPool:
            return _result(name, "failed", "the process that built it crashed")


def _build(name: str, workload: Path, folder: Path) -> dict[str, Any]:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # standard output is for the table
    logging.disable(logging.WARNING)
    user = _workload.read(workload)
    model, calibration = user.model(), user.calibration(SAMPLES)
    title = name
    try:
        module = recipe(name)
        title = module.TITLE
        start = time.perf_counter()
        module.build(model, calibration[0], calibration, folder)
        return _result(title, "built", seconds=time.perf_counter() - start)
    except Skipped as error:
        return _result(title, "skipped", str(error))
    except Exception as error:  # whatever another project's recipe raises is a row of the table
        return _result(title, "failed", reason(error))


def _result(
    title: str, state: str, reason: str | None = None, seconds: float = 0.0
) -> dict[str, Any]:
    return {"title": title, "state": state, "reason": reason, "build_seconds": seconds}


def reason(error: BaseException) -> str:
    """Return the first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def megabytes(folder: Path) -> float | None:
    """Return the size of the files in a folder in MB (1e6 bytes), None when there are none."""
    total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return total / 1e6 if total else None
