"""An artifact that runs in processes of its own, one for each device."""

import collections
import itertools
import math
import statistics
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from objectives.placement import auto
from objectives.placement.auto import Decision, Trial
from objectives.placement.job import Job
from objectives.placement.ranks import Ranks
from objectives.runtime import ROUNDS, Program
from spaces import Infeasible, Placement

BURST = 0.05
"""Seconds for which all replicas work side by side, to be timed."""
MOST = 2000
"""Batches of one round of a stream at most."""


class _Feed:
    """A batch that lies ready in every process under a number."""

    def __init__(self, key: int) -> None:
        self.key = key


class Placed(Program):
    """A program whose batches are computed by `placement.count` processes.

    Raises Infeasible when the artifact cannot be shared out in that way, DeviceFailed when a
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
            self._decision = self._decided(placement)
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
        """Return a batch that lies ready in every process, as long as the result exists."""
        feed = _Feed(next(self._keys))
        self._ask("feed", tensors, key=feed.key)
        self._live[feed.key] = None
        weakref.finalize(feed, self._drop, feed.key)
        return feed

    def run(self, feed: _Feed) -> list[Tensor]:
        """Return the outputs: replicas take turns, otherwise all work together."""
        replicas = self._strategy == "data"
        answers = self._ask("run", key=feed.key, only=[next(self._turn)] if replicas else None)
        return next(tensors for _, tensors in answers if tensors)

    def read(self, raw: list[Tensor]) -> list[Tensor]:
        """Return the outputs as they are."""
        return raw

    def seconds(self, feed: _Feed) -> float:
        """Return the seconds of one batch: of a replica while the others work too, or together.

        What passes between this process and the others is not in them.
        """
        if self._strategy == "data":
            if not self._times:
                self._times.extend(self._burst(list(self._live)))
            return self._times.popleft()
        return self._spans([feed.key], 1)[0]

    def stream(self, feeds: Sequence[_Feed], seconds: float) -> list[float]:
        """Return rates over all devices; a pipeline is full before time is taken."""
        keys = [feed.key for feed in feeds]
        if self._strategy == "data":
            return self._rates(keys, seconds)
        once = statistics.median(self._spans(keys, 3))
        count = min(MOST, max(2 * self.devices, math.ceil(seconds / ROUNDS / once)))
        rates = []
        for _ in range(ROUNDS):
            answers = self._ask("stream", keys=keys, count=count, seconds=count * once)
            first, last = answers[-1][0]["span"]
            rates.append(count / (last - first))
        return rates

    def memory(self, feeds: Sequence[_Feed]) -> int:
        """Return the most bytes that one of the devices needs while `feeds` are run."""
        answers = self._ask("memory", keys=[feed.key for feed in feeds])
        return max(int(header["bytes"]) for header, _ in answers)

    def _drop(self, key: int) -> None:
        self._live.pop(key, None)
        self._dropped.append(key)

    def _ask(
        self,
        what: str,
        tensors: Sequence[Tensor] = (),
        *,
        only: Sequence[int] | None = None,
        **rest: Any,
    ) -> list[tuple[dict[str, Any], list[Tensor]]]:
        request = {"do": what, **rest}
        if only is None and self._dropped:
            request["drop"], self._dropped = self._dropped, []
        limit = float(rest.get("seconds", 0.0))
        return self._ranks.ask(request, tensors, only=only, seconds=limit)

    def _burst(
        self, keys: list[int], only: Sequence[int] | None = None, seconds: float = BURST
    ) -> list[float]:
        answers = self._ask("burst", keys=keys, seconds=seconds, only=only)
        return [t for header, _ in answers for t in header["times"]]

    def _spans(self, keys: list[int], count: int) -> list[float]:
        """Return the seconds of single batches: from where the inputs are to where outputs are.

        That is in the first process, or from it to the last stage; one clock serves the host.
        """
        answers = [header["spans"] for header, _ in self._ask("time", keys=keys, count=count)]
        last = answers[0] if self._strategy == "tensor" else answers[-1]
        return [done - begun for (begun, _), (_, done) in zip(answers[0], last, strict=True)]

    def _rates(
        self, keys: list[int], seconds: float, only: Sequence[int] | None = None
    ) -> list[float]:
        """Return the sums of what replicas do side by side."""
        answers = self._ask("stream", keys=keys, seconds=seconds, only=only)
        return [sum(rates) for rates in zip(*(h["rates"] for h, _ in answers), strict=True)]

    # How the work is shared

    def _decided(self, placement: Placement) -> Decision:
        if placement.count == 1:
            self._place("data")
            return Decision(strategy="data", reason="one device, in a process of its own")
        if placement.strategy != "auto":
            said = self._place(placement.strategy)
            words = f"asked for; {said}" if said else "asked for"
            return Decision(strategy=placement.strategy, reason=words)
        if reason := unsplittable(self._job):
            self._place("data")
            return Decision(strategy="data", reason=f"data: {reason}")
        return self._tried()

    def _tried(self) -> Decision:
        """Measure each strategy on the devices, and take up the best."""
        try:
            self._place("data")
        except Infeasible as error:
            strategy = "tensor" if self._fits("tensor") else "pipeline"
            said = self._place(strategy)
            return Decision(strategy=strategy, reason=f"{strategy}: {error}; {said}")
        feed = self.feed(self._job.example(self.target.batch_size))
        keys, time = [feed.key], auto.SECONDS
        self._burst(keys)  # warms all of them up
        alone = auto.of(self._burst(keys, [0], time), self._rates(keys, time, [0]))
        replicas = auto.of(self._burst(keys, None, time), self._rates(keys, time))
        decision = auto.decide(alone, replicas, self._trial, self.target, self.devices)
        if decision.strategy != self._strategy:
            self._place(decision.strategy)
        return decision

    def _fits(self, strategy: str) -> bool:
        try:
            self._place(strategy)
        except Infeasible:
            return False
        return True

    def _trial(self, strategy: str) -> Trial:
        self._place(strategy)
        feed = self.feed(self._job.example(self.target.batch_size))
        self._spans([feed.key], 3)
        once = statistics.median(self._spans([feed.key], 3))
        count = max(5, min(200, math.ceil(auto.SECONDS / once)))
        return auto.of(self._spans([feed.key], count), self.stream([feed], auto.SECONDS))

    def _place(self, strategy: str) -> str:
        """Let every process take up a strategy; return what is said of it.

        Raises Infeasible when its outputs are not the whole artifact's.
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
        return str(answers[0]["said"])


def unsplittable(job: Job) -> str | None:
    """Return why an artifact can only be replicated, None if its layers can be shared out."""
    name = type(job.runtime).__name__.lower()
    if not job.runtime.splits:
        return f"{name} executes a whole graph, which cannot be split"
    if job.quantized:
        return f"{name}'s 8-bit layers and codes cannot be split"
    return None
