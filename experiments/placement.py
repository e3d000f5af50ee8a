"""Measures one multilayer perceptron on one and on several devices, in every way to share it.

    python experiments/placement.py [--device cuda] [--width 1024] [--layers 8] [--batch 1 64]
        [--count 1 2] [--strategy data tensor pipeline auto] [--dtype float32] [--seconds 1]
        [--rounds 5] [--out experiments/results/placement.json]

Every row is an artifact of the eager runtime, exported and loaded as a search would. It is measured
in turns with the same artifact on one device, `--rounds` rounds of `--seconds` each, so that its
ratios hold where the machine drifts: latency of a batch, throughput of a stream of batches, cost
in device-seconds per 1,000 samples, and the most memory that a device needs. On a CPU a device is
a process with `--threads` cores of its own. What cannot be had is listed with its reason.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from objectives import (
    Examples,
    Export,
    Program,
    Target,
    TimedObjective,
    Turns,
    artifacts,
    in_turns,
    read,
)
from objectives.artifacts import signature_of, versions
from objectives.host import exclusive
from objectives.metrics.cost import Cost
from objectives.metrics.latency import Latency
from objectives.metrics.memory import Memory
from objectives.metrics.throughput import Throughput
from objectives.placement import DeviceFailed, limits
from objectives.runtimes.eager import Eager
from spaces import Encoding, Infeasible, Placement, Split, Task

TIMED: dict[str, TimedObjective] = {
    "latency": Latency(),
    "throughput": Throughput(),
    "cost": Cost(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perceptron(Task):
    """`layers` linear layers of `width` inputs and outputs with GELU between, on random inputs."""

    width: int
    layers: int

    def model(self) -> nn.Module:
        """Return the network, with the same weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts = [nn.Linear(self.width, self.width) for _ in range(self.layers)]
        steps = itertools.chain.from_iterable((part, nn.GELU()) for part in parts[:-1])
        return nn.Sequential(*steps, parts[-1]).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one batch."""
        generator = torch.Generator().manual_seed(len(split))
        yield torch.randn(batch_size, self.width, generator=generator), torch.zeros(batch_size)

    def describe(self) -> dict[str, str]:
        """Return the name and the sizes."""
        return {"name": "perceptron", "width": str(self.width), "layers": str(self.layers)}


def main() -> None:
    """Measure, print the table, and write it as JSON."""
    asked = _arguments()
    task = Perceptron(width=asked.width, layers=asked.layers)
    rows: list[dict[str, Any]] = []
    print(HEAD, flush=True)
    for batch in asked.batch:
        target = Target(device=asked.device, threads=asked.threads, batch_size=batch)
        for placement in _placements(asked):
            with tempfile.TemporaryDirectory() as scratch:
                row = _row(Path(scratch), task, target, placement, asked)
            rows.append(row)
            print(_line(row), flush=True)
            if asked.out:  # after every row: what follows may fail
                content = {"facts": _facts(asked), "rows": rows}
                asked.out.parent.mkdir(parents=True, exist_ok=True)
                asked.out.write_text(json.dumps(content, indent=1) + "\n")


def _placements(asked: Any) -> Iterator[Placement]:
    for count in asked.count:
        for strategy in asked.strategy if count > 1 else ["auto"]:
            yield Placement(count=count, strategy=strategy)


def _row(
    scratch: Path, task: Task, target: Target, placement: Placement, asked: Any
) -> dict[str, Any]:
    """Return what was measured of one placement, beside one device; or why it cannot be had."""
    row: dict[str, Any] = {"batch": target.batch_size, **dataclasses.asdict(placement)}
    encoding = Encoding(dtype=asked.dtype)
    reason = limits.lacks(target, placement) or limits.refuses(
        placement, encoding, "eager", Eager()
    )
    if reason:
        return row | {"reason": reason}
    examples = read(_Whole(task, target.batch_size), "validation")
    try:
        folders = [
            _artifact(scratch / str(p.count), task, target, p, encoding)
            for p in ({Placement(), placement} if placement.count > 1 else {placement})
        ]
        return row | _measured(folders, task, examples, placement, asked)
    except (Infeasible, DeviceFailed) as error:
        return row | {"reason": str(error)}


class _Whole(Task):
    """Some batches of another task as its whole split."""

    def __init__(self, task: Task, batch: int) -> None:
        self._task, self._batch = task, batch

    def model(self) -> nn.Module:
        return self._task.model()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        del batch_size
        yield from self._task.batches(split, 4 * self._batch)

    def describe(self) -> dict[str, str]:
        return self._task.describe()


def _artifact(
    folder: Path, task: Task, target: Target, placement: Placement, encoding: Encoding
) -> Path:
    model, example = task.model(), next(iter(task.batches("validation", target.batch_size)))[0]
    export = Export(
        model=model,
        reference=task.model(),
        example=example,
        signature=signature_of(model, example, target),
        encoding=encoding,
        calibration=(),
        target=target,
        folder=folder,
    )
    artifacts.write(folder, "eager", Eager(), export, {"placement": dataclasses.asdict(placement)})
    return folder


def _measured(
    folders: Sequence[Path], task: Task, examples: Examples, placement: Placement, asked: Any
) -> dict[str, Any]:
    programs: dict[int, Program] = {}
    try:
        with exclusive():
            for folder in sorted(folders, key=lambda f: int(f.name)):
                programs[int(folder.name)] = artifacts.load(folder, Eager(), task, apart=True)
            seen = _in_turns(programs, examples, asked)
        memory = {n: Memory().measure(p, examples).value for n, p in programs.items()}
        told = programs[placement.count].placement()
    finally:
        for program in programs.values():
            program.close()
    found = {k: o.summary([seen[placement.count][k]]).to_json() for k, o in TIMED.items()}
    alone = {k: o.summary([seen[1][k]]).value for k, o in TIMED.items()}
    gains = {
        "latency": alone["latency"] / found["latency"]["value"],
        "throughput": found["throughput"]["value"] / alone["throughput"],
        "cost": alone["cost"] / found["cost"]["value"],
        "memory": memory[1] / memory[placement.count],
    }
    return {**found, "memory": memory[placement.count], "gains": gains, "placement": told}


def _in_turns(
    programs: dict[int, Program], examples: Examples, asked: Any
) -> dict[int, dict[str, Turns]]:
    seconds = asked.rounds * asked.seconds
    bursts = {k: in_turns(programs, o, examples, seconds) for k, o in TIMED.items()}
    return {n: {k: bursts[k][n] for k in TIMED} for n in programs}


HEAD = (
    f"{'batch':>6} {'devices':>7} {'strategy':<10} {'latency ms':>11} {'samples/s':>11} "
    f"{'s/1000':>9} {'MB/device':>10}   gains: latency, throughput, cost, memory"
)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['batch']:>6} {row['count']:>7} {row['strategy']:<10} "
    if "latency" not in row:
        return head + row["reason"]
    gains = "  ".join(f"{g:.2f}x" for g in row["gains"].values())
    values = (
        f"{row['latency']['value']:>11.3f} {row['throughput']['value']:>11.0f} "
        f"{row['cost']['value']:>9.4f} {row['memory'] / 1e6:>10.1f}   {gains}"
    )
    chosen = row["placement"].get("reason", "") if row["strategy"] == "auto" else ""
    return head + values + (f"\n{'':>26}{chosen}" if row["count"] > 1 and chosen else "")


def _facts(asked: Any) -> dict[str, Any]:
    gpu = asked.device == "cuda"
    return {
        "command": "python experiments/placement.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name(0) if gpu else platform.processor(),
        "devices": limits.devices(Target(device=asked.device, threads=asked.threads)),
        "load": os.getloadavg(),
        "versions": versions(),
    }


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="cores of one device on a CPU")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--count", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--strategy", nargs="+", default=["data", "tensor", "pipeline", "auto"],
        choices=("data", "tensor", "pipeline", "auto"),
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
