"""Ways to execute the same model, timed in turns where they are to run: which one is exported."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from objectives.placement._graph import Replayed
from objectives.runtimes._torch import as_function
from spaces._inputs import flatten

_ROUNDS = 9
_WARM_UP = 2
"""Rounds that are not counted: caches are cold."""


def medians(models: Sequence[nn.Module], inputs: Any) -> list[float]:
    """Return the median seconds of a run of each model, on the device of the inputs.

    GPUs replay a graph, as a loaded artifact does; launching kernels one by one takes longer than
    most of them, and would hide how they differ.
    """
    tensors, structure = flatten(inputs)
    device = tensors[0].device
    runs = []
    for model in models:
        replayed = Replayed(as_function(model, structure), device)
        replayed.record(tensors)
        runs.append(replayed)
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(_WARM_UP + _ROUNDS):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run(tensors)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return [statistics.median(times[_WARM_UP:]) for times in taken]
