"""Program of an artifact that runs in separate processes, one per device."""

import collections
import itertools
import math
import statistics
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from objectives.placement import auto
from objectives.placement.auto import Decision, Timing
from objectives.placement.job import Job
from objectives.placement.ranks import Ranks
from objectives.runtime import ROUNDS, Program
from spaces import Infeasible, Placement

BURST = 0.05
"""Seconds for which all replicas run side by side to be timed."""
MAX_BATCHES = 2000
"""Largest number of batches in one round of a stream."""


class _Feed:
    """A batch that is stored in every process under a key."""

    def __init__(self, key: int) -> None:
        self.key = key


class PlacedProgram(Program):
    """A program whose batches are computed by `placement.count` processes.

    Raises Infeasible if the artifact cannot be executed with that placement, DeviceFailed if a
    process fails.
    """

    def __init__(self, job: Job, placement: Placement) -> None:
        super().__init__(job.signature, job.target, job.folder)
        self.devices = placement.count
        self._job = job
        self._keys = itertools.count()
        self._live: dict[int, None] = {}
        self._dropped: list[int] = []
        self._times: collections.deque[float] = collections.deque()
        self._turn = itertools.cycle(range(placement.count))
        self._ranks = Ranks(job, placement.count)
        self._strategy = ""
        try:
            self._decision = self._decide(placement)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        self._ranks.close()

    def placement(self) -> dict[str, Any]:
        """Return the number of devices, the strategy and the reason for it."""
        decision = self._decision
        return {
            "devices": self.devices,
            "strategy": decision.strategy,
            "reason": decision.reason,
        }

    def feed(self, tensors: list[Tensor]) -> _Feed:
        """Store a batch in every process, for as long as the returned object exists."""
        feed = _Feed(next(self._keys))
        self._ask("feed", tensors, key=feed.key)
        self._live[feed.key] = None
        weakref.finalize(feed, self._drop, feed.key)
        return feed

    def run(self, feed: _Feed) -> list[Tensor]:
        """Return the outputs: replicas take turns, with other strategies all processes compute."""
        replicas = self._strategy == "data"
        answers = self._ask("run", key=feed.key, only=[next(self._turn)] if replicas else None)
        return next(tensors for _, tensors in answers if tensors)

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs as they are."""
        return raw

    def seconds(self, feed: _Feed) -> float:
        """Return the seconds of one batch, by a replica while the others run too, or by all.

        Communication with this process is not included.
        """
        if self._strategy == "data":
            if not self._times:
                self._times.extend(self._burst(list(self._live)))
            return self._times.popleft()
        return self._spans([feed.key], 1)[0]

    def stream(self, feeds: Sequence[_Feed], seconds: float) -> list[float]:
        """Return rates over all devices; timing starts once a pipeline is full."""
        keys = [feed.key for feed in feeds]
        if self._strategy == "data":
            return self._rates(keys, seconds)
        once = statistics.median(self._spans(keys, 3))
        count = min(MAX_BATCHES, max(2 * self.devices, math.ceil(seconds / ROUNDS / once)))
        rates = []
        for _ in range(ROUNDS):
            answers = self._ask("stream", keys=keys, count=count, seconds=count * once)
            first, last = answers[-1][0]["span"]
            rates.append(count / (last - first))
        return rates

    def memory(self, feeds: Sequence[_Feed]) -> int:
        """Run `feeds` and return the peak bytes of the device that needs most."""
        answers = self._ask("memory", keys=[feed.key for feed in feeds])
        return max(int(header["bytes"]) for header, _ in answers)

    def _drop(self, key: int) -> None:
        self._live.pop(key, None)
        self._dropped.append(key)

    def _ask(
        self,
        action: str,
        tensors: Sequence[Tensor] = (),
        *,
        only: Sequence[int] | None = None,
        **arguments: Any,
    ) -> list[tuple[dict[str, Any], list[Tensor]]]:
        request = {"do": action, **arguments}
        if only is None and self._dropped:
            request["drop"], self._dropped = self._dropped, []
        seconds = float(arguments.get("seconds", 0.0))
        return self._ranks.ask(request, tensors, only=only, seconds=seconds)

    def _burst(
        self, keys: list[int], only: Sequence[int] | None = None, seconds: float = BURST
    ) -> list[float]:
        answers = self._ask("burst", keys=keys, seconds=seconds, only=only)
        return [t for header, _ in answers for t in header["times"]]

    def _spans(self, keys: list[int], count: int) -> list[float]:
        """Return the seconds of single batches, from the first process to the one with the outputs.

        That is the last stage of a pipeline, else the first process. All share the host's clock.
        """
        answers = [header["spans"] for header, _ in self._ask("time", keys=keys, count=count)]
        last = answers[0] if self._strategy == "tensor" else answers[-1]
        return [end - start for (start, _), (_, end) in zip(answers[0], last, strict=True)]

    def _rates(
        self, keys: list[int], seconds: float, only: Sequence[int] | None = None
    ) -> list[float]:
        """Return the total rates of replicas that run side by side."""
        answers = self._ask("stream", keys=keys, seconds=seconds, only=only)
        return [sum(rates) for rates in zip(*(h["rates"] for h, _ in answers), strict=True)]

    def _decide(self, placement: Placement) -> Decision:
        if placement.count == 1:
            self._place("data")
            return Decision(strategy="data", reason="one device, in a process of its own")
        if placement.strategy != "auto":
            detail = self._place(placement.strategy)
            suffix = f"; {detail}" if detail else ""
            return Decision(strategy=placement.strategy, reason=f"asked for{suffix}")
        if reason := unsplittable(self._job):
            self._place("data")
            return Decision(strategy="data", reason=f"data: {reason}")
        return self._decide_by_timing()

    def _decide_by_timing(self) -> Decision:
        """Time each strategy on the devices and take up the best."""
        try:
            self._place("data")
        except Infeasible as error:
            strategy = "tensor" if self._fits("tensor") else "pipeline"
            detail = self._place(strategy)
            return Decision(strategy=strategy, reason=f"{strategy}: {error}; {detail}")
        feed = self.feed(self._job.example(self.target.batch_size))
        keys, seconds = [feed.key], auto.SECONDS
        self._burst(keys)  # warm-up of all replicas
        single = auto.timing_of(self._burst(keys, [0], seconds), self._rates(keys, seconds, [0]))
        replicas = auto.timing_of(self._burst(keys, None, seconds), self._rates(keys, seconds))
        decision = auto.decide(single, replicas, self._timing, self.target, self.devices)
        if decision.strategy != self._strategy:
            self._place(decision.strategy)
        return decision

    def _fits(self, strategy: str) -> bool:
        try:
            self._place(strategy)
        except Infeasible:
            return False
        return True

    def _timing(self, strategy: str) -> Timing:
        self._place(strategy)
        feed = self.feed(self._job.example(self.target.batch_size))
        self._spans([feed.key], 3)
        once = statistics.median(self._spans([feed.key], 3))
        count = max(5, min(200, math.ceil(auto.SECONDS / once)))
        return auto.timing_of(self._spans([feed.key], count), self.stream([feed], auto.SECONDS))

    def _place(self, strategy: str) -> str:
        """Let every process take up a strategy; return its detail for the reason.

        Raises Infeasible if the outputs deviate from the whole artifact's.
        """
        if strategy != "data" and (reason := unsplittable(self._job)):
            raise Infeasible(f"{strategy} parallelism is not possible: {reason}")
        self._live.clear()
        self._times.clear()
        self._ask("place", strategy=strategy)
        answers = [header for header, _ in self._ask("verify")]
        gap = max(header["gap"] for header in answers)
        if not gap <= max(header["tolerance"] for header in answers):
            raise Infeasible(
                f"{strategy} parallelism does not compute what the model does: outputs differ by "
                f"{gap:.1e} of the largest"
            )
        self._strategy = strategy
        return str(answers[0]["detail"])


def unsplittable(job: Job) -> str | None:
    """Reason why an artifact can only be replicated; None if its layers can be split."""
    name = type(job.runtime).__name__.lower()
    if not job.runtime.splits:
        return f"{name} executes a whole graph, which cannot be split"
    if job.quantized:
        return f"{name}'s 8-bit layers and codes cannot be split"
    return None
