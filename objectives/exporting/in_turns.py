"""Ways to execute the same model, timed in turns where they are to run: which one is exported."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectives.exporting.cuda_graph import Replayed
from objectives.exporting.torch_modules import as_function
from spaces.devices import device_of
from spaces.modules import flatten

GAIN = 0.97
"""What is chosen must save 3 % of the time: less is within the noise."""
_LEAST, _MOST = 9, 31
"""Rounds that are counted; after the least, no more once `_SECONDS` have passed."""
_SECONDS = 1.0
_WARM_UP = 2
"""Rounds that are not counted: caches are cold."""
_KERNELS = (
    "weights of {count} of {all} quantized layers stay in few bits in memory: their kernels took "
    "{share:.2f} times as long as unpacked weights at this batch size"
)
_UNPACKED = (
    "weights of {all} layers are unpacked when the artifact is loaded: kernels for few bits took "
    "{share:.2f} times as long at this batch size"
)


def said(count: int, all_of_them: int, share: float, *, kernels: bool) -> str:
    """Return what a manifest says of a choice between kernels and unpacked weights.

    `count` layers have kernels, with which the model takes a `share` of the time without.
    """
    wording = _KERNELS if kernels else _UNPACKED
    return wording.format(count=count, all=all_of_them, share=share)


def in_turns(runs: Sequence[Callable[[], object]], *, alone: bool = False) -> list[float]:
    """Return the median seconds of each run; all take turns.

    `alone`, all that a run does is done by the calling thread: then its processor time is taken,
    which what else the machine does hardly changes.
    """
    clock = time.process_time if alone else time.perf_counter
    taken: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    for count in range(_WARM_UP + _MOST):
        if count >= _WARM_UP + _LEAST and time.perf_counter() - start > _SECONDS:
            break
        for run, times in zip(runs, taken, strict=True):
            before = clock()
            run()
            times.append(clock() - before)
    return [statistics.median(times[_WARM_UP:]) for times in taken]


def medians(models: Sequence[nn.Module], inputs: Any) -> list[float]:
    """Return the median seconds of a run of each model, on the device of the inputs.

    GPUs replay a graph, as a loaded artifact does; launching kernels one by one takes longer than
    most of them, and would hide how they differ.
    """
    tensors, structure = flatten(inputs)
    runs = [_run(model, structure, tensors) for model in models]
    accelerated = device_of(tensors[0].device).accelerator is not None
    return in_turns(runs, alone=not accelerated and torch.get_num_threads() == 1)


def _run(model: nn.Module, structure: Any, tensors: Sequence[Tensor]) -> Callable[[], None]:
    kind = device_of(tensors[0].device)
    replayed = Replayed(as_function(model, structure), tensors[0].device)
    replayed.record(tensors)

    def run() -> None:
        replayed(tensors)
        kind.synchronize()

    return run
