"""Facts: observations of a trial besides its measurements, as named and typed fields."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from objectives import Execution, Ratio
from objectives.exporting import RECORDED
from spaces import Scope

COARSE = 0.05
"""Precision of a time, as a share, from which the readers of a report are told about it."""

Seconds = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impossible:
    """Origin and scope of the reason why a point could not be built."""

    stage: str
    """Stage of the trial that failed."""
    technique: str | None
    """Technique whose edit of the model's shape began last; None if none had begun."""
    scope: Scope = Scope.POINT

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", Scope(self.scope))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One change on the way from the baseline to a record, and what it did to a time."""

    change: str
    """What changes, in short: `eager → openvino`, `prune 0.25`, `8/8 bit`."""
    objective: str
    """The timed objective."""
    trial: int | None = None
    """Trial whose artifact stands for the point after the change; None if it was built for this."""
    ratio: Ratio | None = None
    """Value after the change over the value before, in turns; None if it was not measured."""
    reason: str | None = None
    """Why it was not measured, one sentence; the next step then contains this change."""

    def __post_init__(self) -> None:
        if isinstance(self.ratio, dict):
            object.__setattr__(self, "ratio", Ratio(**self.ratio))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Observations of a trial besides its measurements; None means unknown."""

    weights_removed: float | None = None
    """Share of the reference's weights that were removed."""
    layers_dropped: tuple[str, ...] | None = None
    left: tuple[str, ...] | None = None
    """Sentences about parts of the model that techniques could not change as asked."""
    weights_zero: float | None = None
    """Share of the weights that are zero."""
    zeros: str | None = None
    """Reason why zero weights take as long as others, in one sentence."""
    work: Mapping[str, Any] | None = None
    """Operations and bytes of one batch, as `objectives.work` describes them."""
    ceilings: Mapping[str, float] | None = None
    """Highest rates that the host's device reaches for this work: `operations` a second in its
    type, and `bytes` a second."""
    techniques: Mapping[str, Any] | None = None
    """Decisions that techniques took in view of the shaped model, by technique name."""
    bits: Mapping[str, int] | None = None
    """Bits of each weight that is stored in fewer than 32 bits, by the weight's name."""
    mean_bits: float | None = None
    """Average of `bits` over the values of these weights."""
    recovery: Mapping[str, Any] | None = None
    """Outcome of recovery training: `before` and `after` are losses on validation samples, `kept`
    is true if the trained weights were kept, `memory` is the peak number of bytes on a device."""
    training: Mapping[str, Any] | None = None
    """Number of devices that trained the model, and how they shared it."""
    loss: tuple[float, ...] | None = None
    """First and last training loss."""
    train: str | None = None
    """Source of the trained weights, if not this trial."""
    probe: str | None = None
    """Source of the measurements before training, if not this trial."""
    identity: str | None = None
    """Hash that artifacts with the same files, runtime and devices share."""
    size: int | None = None
    """Bytes of the artifact's files, without its manifest."""
    remark: str | None = None
    """Remark of the runtime about the artifact, in one sentence."""
    processes: int | None = None
    """Number of processes that timed the artifact."""
    precision: float | None = None
    """Half the width of the widest interval of its times, as a share of the time."""
    percentiles: Mapping[str, float] | None = None
    """Milliseconds of a batch by percentile ("50", "90", "99"), of the runs that were timed in the
    search; those for which there were too few runs are left out."""
    conditions: Mapping[str, Any] | None = None
    """State of the target's device while it was measured; `others` is the share of a CPU
    that other processes used, `execution` the way in which kernels were launched."""
    execution: Execution | None = None
    """What the artifact executes, beside the precision that was asked for, by its runtime."""
    placement: Mapping[str, Any] | None = None
    """Strategy by which several devices shared the work, and the reason for it."""
    impossible: Impossible | None = None
    """Origin and scope of the reason, if the point could not be built."""
    seconds: Seconds | None = None
    """Wall time in seconds, by stage."""
    saved: Seconds | None = None
    """Seconds that results of other trials of the run saved this one, by stage."""
    during_search: Mapping[str, Any] | None = None
    """Measurements taken during the search that the confirmed ones replaced."""
    confirmed_beside: int | None = None
    """Trial number of the baseline with which the artifact took turns when it was confirmed."""
    continued_with: tuple[str, ...] | None = None
    """Changes of code, data, settings or versions since the run began, forced before this trial."""
    steps: tuple[Step, ...] | None = None
    """The way from the baseline to this record, one technique at a time; for picks alone."""

    def __post_init__(self) -> None:
        for name in ("layers_dropped", "left", "loss", "continued_with"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.impossible, dict):
            object.__setattr__(self, "impossible", Impossible(**self.impossible))
        if self.steps is not None:
            steps = (s if isinstance(s, Step) else Step(**s) for s in self.steps)
            object.__setattr__(self, "steps", tuple(steps))
        if isinstance(self.execution, dict):
            object.__setattr__(self, "execution", Execution.from_json(self.execution))

    @property
    def taken_back(self) -> bool:
        """True if recovery training made the model worse and the untrained model was used."""
        return self.recovery is not None and not self.recovery["kept"]

    @property
    def strategy(self) -> str | None:
        """Strategy by which several devices shared the work in the first measurement."""
        strategy: str | None = (self.placement or {}).get("strategy")
        return strategy

    def sentences(self) -> list[str]:
        """Return remarks for the readers of a report, in whole sentences."""
        dropped = [f"Dropped: {', '.join(self.layers_dropped)}."] if self.layers_dropped else []
        sentences = [*dropped, *(self.left or ()), self.zeros, self.remark, self._launching()]
        sentences.append(self._precision())
        if self.execution is not None:
            sentences.append(self.execution.shortfall())
            sentences.append(None if self.remark else self.execution.unpacked())
        if self.recovery is not None and self.taken_back:
            before, after = self.recovery["before"], self.recovery["after"]
            sentences.append(
                f"Recovery training raised the loss from {before:.3g} to {after:.3g} and was "
                "taken back."
            )
        return [sentence for sentence in sentences if sentence]

    def _precision(self) -> str | None:
        if self.precision is None or self.precision <= COARSE:
            return None
        processes = "one process" if self.processes == 1 else f"{self.processes} processes"
        return f"Its time is known within {100 * self.precision:.0f} % only, from {processes}."

    def _launching(self) -> str | None:
        execution = (self.conditions or {}).get("execution", RECORDED)
        return (
            None if execution == RECORDED else f"Its kernels are launched one by one: {execution}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the known facts as plain data."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the facts that `to_json` described; raises TypeError on unknown ones."""
        fields = dict(data)
        if "allocation" in fields:  # another key for the facts of this one technique
            fields["techniques"] = {"quantize.mixed": fields.pop("allocation")}
        return cls(**fields)
