"""Start processes by forking one that has imported the libraries; imports none itself."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

PRELOADED = ["search.trial_process.main", "scipy.special"]
"""Modules that are imported once, by the process from which others are forked."""

FORKABLE = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Makes torch look for GPUs through NVML: initialising CUDA would break later forks."""


def context_for(measuring_threads: int) -> Any:
    """Return a multiprocessing context whose processes are forked from one with imported libraries.

    Like a spawned process, such a fork has no model, no thread and no warm cache of another trial,
    but it need not spend three seconds on importing torch. Without fork, processes are spawned.

    If one thread is measured, idle OpenMP threads sleep rather than spin: beside another busy
    process, training took 14 s with two spinning threads and 3 s with sleeping ones; on an idle
    machine both took 3 s. If several threads are measured, waiting is part of the latency and stays
    as it is. The first search in a process decides, as torch reads the setting on import.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # The fork server does not inherit sys.path, only PYTHONPATH.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    variables = FORKABLE | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if measuring_threads == 1:
        variables["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context
