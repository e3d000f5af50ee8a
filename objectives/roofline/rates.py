"""Measure the ceilings of a device: matrix products in each type, and copies of several sizes."""

import time
from collections.abc import Callable, Iterator

import torch

from objectives.roofline.ceilings import Ceilings
from objectives.roofline.products import precisions, product
from objectives.target import Target
from spaces.devices import Timer, device_of

FEWEST, SECONDS = 5, 0.15
"""Bursts of which the fastest counts, at least, and the seconds that they may take otherwise."""
BURST = 0.002
"""Seconds of a burst of short runs: a busy core is taken away for longer than that."""
SIDES = (256, 512, 1024, 2048, 4096, 8192)
"""Rows and columns of the matrices, each size tried until a product takes LONG seconds."""
LONG = 0.003
WORKING_SETS = tuple(2**20 * 4**step for step in range(5))
"""Bytes that a copy touches, half of them read: from 1 MiB, in a cache, to 256 MiB."""


def measure(target: Target) -> Ceilings:
    """Measure the ceilings of a target's device with its threads, in about three seconds.

    The best of many short bursts counts, as a neighbour only makes them slower. On a shared machine
    even that can be too low, for its pace may change by a factor of two for minutes. The caller
    holds the host's exclusive lane.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(target.threads)
    try:
        with torch.inference_mode():
            return Ceilings(
                operations={name: _products(name, target.device) for name in precisions(target)},
                bytes={size: _copies(size, target.device) for size in WORKING_SETS},
            )
    finally:
        torch.set_num_threads(threads)


def _products(precision: str, device: str) -> float:
    """Return the most operations a second of matrix products of several sizes."""
    return max(_rates(precision, device))


def _rates(precision: str, device: str) -> Iterator[float]:
    timer = device_of(device).timer()
    for side in SIDES:
        with product(precision, side, device) as run:
            seconds = fastest(run, timer)
        yield 2 * side**3 / seconds
        if seconds > LONG:
            return


def _copies(size: int, device: str) -> float:
    """Return the bytes a second of a copy that reads half of `size` bytes and writes half."""
    source = torch.ones(size // 8, device=device)
    copy = torch.empty_like(source)
    return size / fastest(lambda: copy.copy_(source), device_of(device).timer())


def fastest(run: Callable[[], object], timer: Timer) -> float:
    """Return the seconds of one run in the fastest of many bursts, after one run to warm up."""
    timer(run)
    count = max(1, int(BURST / max(timer(run), 1e-6)))

    def burst() -> None:
        for _ in range(count):
            run()

    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < FEWEST or time.perf_counter() < end:
        times.append(timer(burst))
    return min(times) / count
