"""How devices share the work when nobody has said so: tried on the devices, then decided."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping

from objectives.target import Target
from spaces import Infeasible
from spaces.devices import device_of

SECONDS = 0.3
"""Time for each figure of a trial."""
GAIN = 1.05
"""A split must be this much better than replicas, which are simpler, to be chosen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a strategy was measured to do at the target's batch."""

    latency: float
    """Seconds of a batch."""
    rate: float
    """Batches per second, over all devices, in a stream."""

    def gains(self, alone: "Trial") -> tuple[float, float]:
        """Return how many times better latency and throughput are than one device's."""
        return alone.latency / self.latency, self.rate / alone.rate

    def worth(self, alone: "Trial") -> float:
        """Return the product of both gains: either counts as much as the other."""
        latency, rate = self.gains(alone)
        return latency * rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """A strategy, why it was chosen, and what was measured for that."""

    strategy: str
    reason: str
    trials: Mapping[str, Trial] = dataclasses.field(default_factory=dict)


def of(latencies: list[float], rates: list[float]) -> Trial:
    """Return the medians of seconds and of batches per second."""
    return Trial(latency=statistics.median(latencies), rate=statistics.median(rates))


def decide(
    alone: Trial,
    replicas: Trial,
    attempt: Callable[[str], Trial],
    target: Target,
    count: int,
) -> Decision:
    """Return how `count` devices share the work, given how one does alone and as one replica.

    `attempt` measures another strategy, or raises Infeasible with the reason why it cannot be.
    Replicas gain throughput only; a tensor split both; a pipeline throughput, and memory. Which
    is best depends on the model's widths and on the batch, as on what connects the devices.
    """
    trials = {"data": replicas}
    refused: dict[str, str] = {}
    if alone.latency < device_of(target.device).shortest:
        took = f"a batch takes {_time(alone.latency)}, no longer than processes need to agree"
        reason = f"data: {took}, so that nothing is split"
        return Decision(strategy="data", reason=reason, trials=trials)
    for strategy in ("tensor", "pipeline"):
        try:
            trials[strategy] = attempt(strategy)
        except Infeasible as error:
            refused[strategy] = str(error)
    worth = {s: t.worth(alone) / (1 if s == "data" else GAIN) for s, t in trials.items()}
    best = max(worth, key=worth.__getitem__)
    told = [f"{s} {_gains(t, alone)}" for s, t in trials.items()]
    told += [f"{s} not possible ({why})" for s, why in refused.items()]
    reason = (
        f"{best}: the product of its gains in latency and in throughput over one device is the "
        f"largest, measured on {count} {target.device} devices at batch {target.batch_size} "
        f"(one device: {_time(alone.latency)}): {', '.join(told)}"
    )
    return Decision(strategy=best, reason=reason, trials=trials)


def _gains(trial: Trial, alone: Trial) -> str:
    latency, rate = trial.gains(alone)
    return f"{latency:.2f}x and {rate:.2f}x"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
