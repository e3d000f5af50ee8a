"""Facts about a trial beside its measurements, with names and types."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from objectives.exporting import RECORDED
from spaces import Scope

Seconds = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impossible:
    """How far the reason reaches for which a point could not be built."""

    stage: str
    """The stage of the trial in which it was met."""
    technique: str | None
    """The technique whose edit of the shape was begun last; None before any."""
    scope: Scope = Scope.POINT

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", Scope(self.scope))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was observed of a trial beside its measurements; None is not known."""

    weights_removed: float | None = None
    """Share of the reference's weights that are gone."""
    layers_dropped: tuple[str, ...] | None = None
    left: tuple[str, ...] | None = None
    """What techniques left as it was although asked, in whole sentences."""
    weights_zero: float | None = None
    """Share of the weights that are zero."""
    zeros: str | None = None
    """Why zero weights take as long as others, in one sentence."""
    techniques: Mapping[str, Any] | None = None
    """What techniques decided in view of the shaped model, by their names."""
    bits: Mapping[str, int] | None = None
    """Bits of each weight that is stored in few, by its name."""
    mean_bits: float | None = None
    """The same on average over the weights' values."""
    recovery: Mapping[str, Any] | None = None
    """Outcome of recovery training: `before` and `after` are losses on validation samples, `kept`
    is whether the trained weights were."""
    training: Mapping[str, Any] | None = None
    """How several devices held the model in training."""
    loss: tuple[float, ...] | None = None
    """First and last training loss."""
    train: str | None = None
    """Where the trained weights come from, unless from this trial."""
    probe: str | None = None
    """Where the measurements before training come from, unless from this trial."""
    identity: str | None = None
    """What artifacts of the same files on the same devices share."""
    remark: str | None = None
    """A remark of the runtime on the artifact, in one sentence."""
    processes: int | None = None
    """How many processes timed the artifact."""
    conditions: Mapping[str, Any] | None = None
    """What the target's device was and did while it was measured; `others` is the share of a CPU
    that other processes used, `execution` how kernels were launched."""
    placement: Mapping[str, Any] | None = None
    """How several devices shared the work, and why."""
    impossible: Impossible | None = None
    """What the reason says of other points, where the point could not be built."""
    seconds: Seconds | None = None
    """Wall time by stage."""
    during_search: Mapping[str, Any] | None = None
    """The measurements that the confirmed ones replaced."""
    confirmed_beside: int | None = None
    """Trial of the baseline in turns with which it was confirmed."""
    pace: Mapping[str, float] | None = None
    """What its times were multiplied by when it was confirmed, where that is not 1."""

    def __post_init__(self) -> None:
        for name in ("layers_dropped", "left", "loss"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.impossible, dict):
            object.__setattr__(self, "impossible", Impossible(**self.impossible))

    @property
    def taken_back(self) -> bool:
        """Whether recovery training made the model worse, so that it is the untrained one."""
        return self.recovery is not None and not self.recovery["kept"]

    @property
    def strategy(self) -> str | None:
        """How several devices shared the work when the artifact was measured first."""
        strategy: str | None = (self.placement or {}).get("strategy")
        return strategy

    def sentences(self) -> list[str]:
        """Return what a reader of the report should know, in whole sentences."""
        dropped = [f"Dropped: {', '.join(self.layers_dropped)}."] if self.layers_dropped else []
        sentences = [*dropped, *(self.left or ()), self.zeros, self.remark, self._execution()]
        if self.recovery is not None and self.taken_back:
            before, after = self.recovery["before"], self.recovery["after"]
            sentences.append(
                f"Recovery training raised the loss from {before:.3g} to {after:.3g} and was "
                "taken back."
            )
        return [sentence for sentence in sentences if sentence]

    def _execution(self) -> str | None:
        how = (self.conditions or {}).get("execution", RECORDED)
        return None if how == RECORDED else f"Its kernels are launched one by one: {how}."

    def to_json(self) -> dict[str, Any]:
        """Return what is known as plain data."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the facts that `to_json` described; raises TypeError on unknown ones."""
        known = dict(data)
        if "allocation" in known:  # as records of the first version call it
            known["techniques"] = {"quantize.mixed": known.pop("allocation")}
        return cls(**known)
