"""Choose a strategy by timing: replicas, tensor parallelism or pipeline parallelism."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping

from objectives.target import Target
from spaces import Infeasible
from spaces.devices import device_of

SECONDS = 0.3
"""Seconds for each measurement of a strategy."""
GAIN = 1.05
"""Factor by which a split must be better than replicas, which are simpler, to be chosen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Measured latency and rate of a strategy at the target's batch size."""

    latency: float
    """Seconds of a batch."""
    rate: float
    """Batches per second, over all devices, in a stream."""

    def gains(self, single: "Timing") -> tuple[float, float]:
        """Return the factors by which latency and throughput are better than a single device's."""
        return single.latency / self.latency, self.rate / single.rate

    def worth(self, single: "Timing") -> float:
        """Return the product of both gains, which thereby have equal weight."""
        latency, rate = self.gains(single)
        return latency * rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """A strategy, the reason for it, and the timings of the strategies that were tried."""

    strategy: str
    reason: str
    timings: Mapping[str, Timing] = dataclasses.field(default_factory=dict)


def timing_of(latencies: list[float], rates: list[float]) -> Timing:
    """Return the medians of latencies in seconds and of rates in batches per second."""
    return Timing(latency=statistics.median(latencies), rate=statistics.median(rates))


def decide(
    single: Timing,
    replicas: Timing,
    attempt: Callable[[str], Timing],
    target: Target,
    count: int,
) -> Decision:
    """Choose the strategy of `count` devices, given the timings of a single one and of replicas.

    `attempt` times another strategy, or raises Infeasible with the reason why it is not possible.
    Replicas improve throughput only, a tensor split both latency and throughput, a pipeline
    throughput and memory. The best strategy depends on the widths of the model, the batch size and
    the connection between the devices.
    """
    timings = {"data": replicas}
    refusals: dict[str, str] = {}
    if single.latency < device_of(target.device).shortest:
        latency = f"a batch takes {_time(single.latency)}, no longer than processes need to agree"
        reason = f"data: {latency}, so that nothing is split"
        return Decision(strategy="data", reason=reason, timings=timings)
    for strategy in ("tensor", "pipeline"):
        try:
            timings[strategy] = attempt(strategy)
        except Infeasible as error:
            refusals[strategy] = str(error)
    worth = {s: t.worth(single) / (1 if s == "data" else GAIN) for s, t in timings.items()}
    best = max(worth, key=worth.__getitem__)
    results = [f"{s} {_gains(t, single)}" for s, t in timings.items()]
    results += [f"{s} not possible ({refusal})" for s, refusal in refusals.items()]
    reason = (
        f"{best}: the product of its gains in latency and in throughput over one device is the "
        f"largest, measured on {count} {target.device} devices at batch {target.batch_size} "
        f"(one device: {_time(single.latency)}): {', '.join(results)}"
    )
    return Decision(strategy=best, reason=reason, timings=timings)


def _gains(timing: Timing, single: Timing) -> str:
    latency, rate = timing.gains(single)
    return f"{latency:.2f}x and {rate:.2f}x"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
