"""Measures this host's ceilings, and how near to them unchanged models come in each runtime.

    python experiments/ceilings.py [--task TASK.PY ...] [--device cuda] [--threads 1] [--batch 1]
        [--runtimes eager onnxruntime] [--seconds 1] [--out FILE]

Ceilings are measured before and after each model; the highest rate of all measurements counts.
Without `--task` it is the embedded default's network. A row has the median of the runs, and the
fastest tenth of them: on a busy machine that is nearer to what the artifact can do.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objectives import Export, Runtime, Target, calibration
from objectives.artifacts import described, load, write
from objectives.host import exclusive, pin, processor
from objectives.metrics.latency import Latency
from objectives.roofline import Ceilings, measure
from objectives.tasks.digits import Digits
from objectives.tasks.python import Python
from search import catalogue
from search.experiment import kinds_of
from spaces import Encoding, Infeasible, Task
from spaces.devices import device_of
from spaces.modules import flatten

ENCODINGS = {
    "float32": Encoding(),
    "bfloat16": Encoding(dtype="bfloat16"),
    "int8": Encoding(weight_bits=8, activation_bits=8),
}


def main() -> None:
    """Print the ceilings and a row for each artifact, and write all as JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", nargs="*", type=Path, default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runtimes", nargs="+", default=catalogue.names("runtime"))
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    target = Target(device=asked.device, threads=asked.threads, batch_size=asked.batch)
    if not device_of(target.device).accelerator:
        pin(target.threads)
    tasks: list[Task] = [Python(file=file) for file in asked.task] or [Digits()]
    found, ceilings = [], _measured(target)
    for task in tasks:
        found += list(_timed(task, target, asked.runtimes, asked.seconds))
        ceilings = ceilings.highest(_measured(target))
    print(_told(ceilings))
    rows = [_row(times, ceilings) for times in found]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if asked.out:
        names = device_of(target.device).product_names() or [processor()]
        content = {"device": names[0], "torch": torch.__version__, "rows": rows}
        content |= {"target": dataclasses.asdict(target), "ceilings": ceilings.to_json()}
        asked.out.write_text(json.dumps(content, indent=1) + "\n")


def _measured(target: Target) -> Ceilings:
    with exclusive(target.device):
        return measure(target)


def _timed(
    task: Task, target: Target, runtimes: list[str], seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield work and milliseconds of the unchanged model in each runtime and encoding."""
    model = task.given().float().eval()
    for name in runtimes:
        runtime = catalogue.find("runtime", name, Runtime)()
        if not runtime.usual:
            continue
        for label, encoding in ENCODINGS.items():
            reason = runtime.overlooks(encoding) or runtime.refuses(
                encoding, target, kinds_of(model)
            )
            heading = {"task": task.describe()["name"], "runtime": name, "encoding": label}
            if reason:
                print(f"{heading}: {reason}")
                continue
            try:
                yield heading | _observed(task, model, name, runtime, encoding, target, seconds)
            except Infeasible as error:
                print(f"{heading}: {error}")


def _observed(
    task: Task,
    model: torch.nn.Module,
    name: str,
    runtime: Runtime,
    encoding: Encoding,
    target: Target,
    seconds: float,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder, example = Path(temporary), next(iter(task.batches("validation", target.batch_size)))
        signature, operations = described(model, example[0], target)
        batches: Any = ()
        if encoding.activation_bits < 32:
            (folder / "data").mkdir()
            batches = calibration(task, target.batch_size, 256, 0, folder / "data")
        export = Export(
            model=model, reference=model, example=example[0], signature=signature,
            encoding=encoding, calibration=batches, target=target, folder=folder,
            operations=operations,
        )  # fmt: skip
        write(folder / "artifact", name, runtime, export, {})
        with load(folder / "artifact", runtime, task) as program, exclusive(target.device):
            feed = [program.feed([t.contiguous() for t in flatten(example[0])[0]])]
            Latency().observe(program, feed, seconds / 4)
            times = Latency().observe(program, feed, seconds)
            return {"work": program.work, "times": times}


def _row(found: dict[str, Any], ceilings: Ceilings) -> dict[str, Any]:
    work, times = found["work"], np.array(found["times"])
    allowed = 1e3 * ceilings.seconds(work)
    traffic = 1e3 * work.bytes / ceilings.bandwidth(work.bytes)
    median, fast = (float(np.quantile(times, q)) for q in (0.5, 0.1))
    return {
        **{k: v for k, v in found.items() if k not in ("work", "times")},
        "Mop": round(work.operations / 1e6, 2),
        "kB": round(work.bytes / 1e3, 1),
        "bound": "traffic" if traffic >= allowed else "arithmetic",
        "ms": float(f"{median:.4g}"),
        "share": round(allowed / median, 3),
        "share of the fastest tenth": round(allowed / fast, 3),
    }


def _told(ceilings: Ceilings) -> str:
    operations = ", ".join(f"{k} {v / 1e9:.1f}" for k, v in ceilings.operations.items())
    rates = ", ".join(f"{size >> 20} MiB {v / 1e9:.1f}" for size, v in ceilings.bytes.items())
    return f"10^9 operations a second: {operations}\n10^9 bytes a second: {rates}"


if __name__ == "__main__":
    main()
