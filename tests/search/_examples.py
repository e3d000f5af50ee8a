"""Records of an imagined search over a small network, for the tests of what is told of it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from objectives import Measurement
from objectives.metrics.accuracy import Accuracy
from objectives.metrics.latency import Latency
from objectives.metrics.size import Size
from search.experiment.reading import space_from
from search.records import Axis, Facts, front
from search.records.record import Record, State
from search.reporting.summary import Summary
from spaces import Value

ACCURACY = Axis.of("accuracy", Accuracy())
LATENCY = Axis.of("latency", Latency())
SIZE = Axis.of("size", Size())
AXES = (ACCURACY, LATENCY, SIZE)

SPACE, _ = space_from(
    {
        "prune.channels": {"ratio": {"low": 0.0, "high": 0.7, "step": 0.1}},
        "quantize.integer": {"weight_bits": [32, 8, 4], "activation_bits": [32, 8]},
        "distill.logits": {"temperature": [1.0, 4.0], "steps": [0, 50, 200]},
        "precision.compute": {"dtype": ["float32", "bfloat16"]},
        "deploy.runtime": {"name": ["eager", "inductor", "onnxruntime", "openvino"]},
    },
    Path(),
)
NEUTRAL: dict[str, Value] = {
    "prune.channels.ratio": 0.0,
    "quantize.integer.weight_bits": 32,
    "quantize.integer.activation_bits": 32,
    "distill.logits.temperature": 1.0,
    "distill.logits.steps": 0,
    "precision.compute.dtype": "float32",
    "deploy.runtime.name": "eager",
}


def measured(value: float, unit: str, half: float = 0.0, samples: int = 30) -> Measurement:
    """Return a measurement with a symmetric interval."""
    return Measurement(value=value, unit=unit, low=value - half, high=value + half, samples=samples)


def record(
    trial: int,
    accuracy: float | None = None,
    latency: float | None = None,
    size: float | None = None,
    *,
    runtime: str = "eager",
    state: State = "complete",
    **rest: Any,
) -> Record:
    """Return a record with these values of the three usual objectives; None is not measured."""
    point = {**NEUTRAL, "deploy.runtime.name": runtime, **rest.pop("point", {})}
    pairs = [("accuracy", accuracy, "score", 0.004), ("latency", latency, "ms", 0.01)]
    pairs += [("size", size, "bytes", 0.0)]
    measurements = {n: measured(v, u, h) for n, v, u, h in pairs if v is not None}
    return Record(
        trial=trial,
        point=point,
        runtime=runtime,
        state=state,
        measurements=rest.pop("measurements", measurements),
        seconds=rest.pop("seconds", 2.5),
        **rest,
    )


def pruned(trial: int, ratio: float, runtime: str, bits: int, steps: int) -> Record:
    """Return a plausible outcome of pruning, quantizing and recovery training."""
    slow = {"eager": 2.76, "inductor": 1.36, "onnxruntime": 0.87, "openvino": 0.61}[runtime]
    integer = 0.78 if bits == 8 and runtime != "eager" else 1.0
    lost = 0.30 * ratio**2.2 * (0.35 if steps else 1.0) + (0.004 if bits == 8 else 0.0)
    accuracy = round(0.885 - lost + 0.002 * math.sin(7 * trial), 4)
    return record(
        trial,
        accuracy,
        round(slow * integer * (1 - 0.72 * ratio) + 0.003 * (trial % 5), 4),
        round(1_120_000 * (1 - ratio) ** 1.8 * (0.29 if bits == 8 else 1.0)),
        runtime=runtime,
        point={
            "prune.channels.ratio": ratio,
            "quantize.integer.weight_bits": bits,
            "quantize.integer.activation_bits": bits,
            "distill.logits.steps": steps,
            "distill.logits.temperature": 4.0 if steps else 1.0,
            "precision.compute.dtype": "bfloat16" if trial % 4 == 3 else "float32",
        },
        limits={"accuracy.within": round(0.835 - accuracy, 6)},
        artifact=f"artifacts/{trial}",
        facts=Facts(weights_removed=ratio, seconds={"train": 1.5 * steps / 50}),
        seconds=4.0 + steps / 20,
    )


def study() -> tuple[Record, ...]:
    """Return 40 trials: neutral ones in four runtimes, then a spread of points and failures."""
    runtimes = ("eager", "onnxruntime", "openvino", "inductor")
    records = [pruned(i, 0.0, runtime, 32, 0) for i, runtime in enumerate(runtimes)]
    records = [
        dataclasses.replace(r, point={**r.point, "precision.compute.dtype": "float32"})
        for r in records
    ]
    for trial in range(4, 36):
        ratio = round(0.1 * (trial * 5 % 8), 1)
        bits = 8 if trial * 7 % 3 else 32
        records.append(pruned(trial, ratio, runtimes[trial % 4], bits, (0, 50, 200)[trial % 3]))
    records.append(
        record(
            36,
            latency=2.9,
            size=500_000,
            state="pruned",
            limits={},
            reason="latency 2.90 ms is dominated by trial 9 before training",
            point={"prune.channels.ratio": 0.1},
        )
    )
    records.append(
        record(
            37,
            state="infeasible",
            runtime="inductor",
            reason="inductor has no 4-bit kernels on this processor",
            point={"quantize.integer.weight_bits": 4},
        )
    )
    records.append(
        record(
            38,
            state="failed",
            runtime="onnxruntime",
            reason="the measuring process was killed: out of memory",
        )
    )
    return (*records, pruned(39, 0.3, "openvino", 8, 200))


def summary(records: tuple[Record, ...] | None = None, **changes: Any) -> Summary:
    """Return a summary of the imagined study."""
    records = study() if records is None else records
    members = tuple(front(records, changes.get("axes", AXES)))
    tested = {m.trial: _with_test(m) for m in members}
    fields: dict[str, Any] = {
        "key": "cifar10-resnet20-1a2b3c",
        "name": "cifar10-resnet20",
        "command": "python -m search run experiments/cifar10.toml",
        "goal": "Best trade-offs of accuracy, latency and size on cpu, 1 thread, batch 1.",
        "axes": AXES,
        "baseline": records[0],
        "records": tuple(tested.get(r.trial, r) for r in records),
        "front": tuple(tested.values()),
        "space": SPACE,
        "limits": {"accuracy.within": "at most 0.05 below the unchanged model (0.835)"},
        "bounds": {"accuracy": 0.835},
        "environment": {"Processor": "AMD EPYC 7R13, AVX2", "torch": "2.13.0", "Seed": "0"},
        "run_folder": "runs/cifar10-resnet20",
        "confirmed": True,
    }
    return Summary(**{**fields, **changes})


def _with_test(member: Record) -> Record:
    if "accuracy" not in member.measurements:
        return member
    value = member.measurements["accuracy"].value - 0.003
    return dataclasses.replace(member, test={"accuracy": measured(value, "score", 0.004)})
