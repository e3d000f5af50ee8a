"""Compare ways to execute a model by timing them in turns on the target's device."""

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
"""Largest share of the default's time at which another way is chosen: a smaller gain is noise."""
_MIN_ROUNDS, _MAX_ROUNDS = 9, 31
"""Rounds that count; after the minimum, timing stops once `_SECONDS` have passed."""
_SECONDS = 1.0
_WARM_UP = 2
"""Rounds that do not count, since caches are cold."""
_KERNELS = (
    "weights of {count} of {all} quantized layers stay in few bits in memory: their kernels took "
    "{share:.2f} times as long as unpacked weights at this batch size"
)
_UNPACKED = (
    "weights of {all} layers are unpacked when the artifact is loaded: kernels for few bits took "
    "{share:.2f} times as long at this batch size"
)


def kernel_remark(count: int, total: int, share: float, *, kernels: bool) -> str:
    """Return a manifest's remark on the choice between low-bit kernels and unpacked weights.

    `count` of `total` layers have kernels, with which the model takes `share` of the time without;
    `kernels` is true if they were chosen.
    """
    wording = _KERNELS if kernels else _UNPACKED
    return wording.format(count=count, all=total, share=share)


def in_turns(runs: Sequence[Callable[[], object]], *, single_threaded: bool = False) -> list[float]:
    """Return the median seconds of each run, taken in turns.

    `single_threaded` states that a run does all its work in the calling thread. The CPU time of the
    process is then taken, which other load on the machine hardly changes.
    """
    clock = time.process_time if single_threaded else time.perf_counter
    series: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    for count in range(_WARM_UP + _MAX_ROUNDS):
        if count >= _WARM_UP + _MIN_ROUNDS and time.perf_counter() - start > _SECONDS:
            break
        for run, times in zip(runs, series, strict=True):
            before = clock()
            run()
            times.append(clock() - before)
    return [statistics.median(times[_WARM_UP:]) for times in series]


def medians(models: Sequence[nn.Module], inputs: Any) -> list[float]:
    """Return the median seconds of a run of each model, on the device of the inputs.

    On GPUs the models are replayed as CUDA graphs, as loaded artifacts are: launching kernels one
    by one takes longer than most kernels run and would hide the differences.
    """
    tensors, structure = flatten(inputs)
    runs = [_run(model, structure, tensors) for model in models]
    accelerated = device_of(tensors[0].device).accelerator is not None
    single_threaded = not accelerated and torch.get_num_threads() == 1
    return in_turns(runs, single_threaded=single_threaded)


def _run(model: nn.Module, structure: Any, tensors: Sequence[Tensor]) -> Callable[[], None]:
    kind = device_of(tensors[0].device)
    replayed = Replayed(as_function(model, structure), tensors[0].device)
    replayed.record(tensors)

    def run() -> None:
        replayed(tensors)
        kind.synchronize()

    return run
