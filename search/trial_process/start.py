"""How processes are made: forked from one that has imported the libraries. Imports none itself."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

PRELOADED = "search.trial_process.main"
"""What the process that others are forked from imports."""

FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Lets torch ask the driver whether there is a GPU: asking CUDA itself spoils later forks."""


def context_for(measuring_threads: int) -> Any:
    """Return how processes are made: forked from one that has imported the libraries and no more.

    Such a process has no model, no thread and no warmed-up cache of another trial's, as a spawned
    one, but need not spend three seconds on importing torch. Where there is no fork it is spawned.

    Where one thread is measured, idle OpenMP threads sleep rather than spin: beside another busy
    process two spinning threads trained 14 s where sleeping ones took 3 s, and alone 3 s as well.
    Where several are measured, waiting is part of the latency and is left as it is. The first
    search of a process decides: the setting is read when torch is imported.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    # Its modules are looked for where PYTHONPATH says: sys.path is not passed on.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    ours = FORKABLE | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if measuring_threads == 1:
        ours["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    before = dict(os.environ)
    os.environ.update(ours)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context
