"""Public architectures with random weights: are they pruned, exported, reloaded, and how fast.

    python experiments/zoo.py --jobs 2 --out experiments/results/zoo.json
    python experiments/zoo.py --only torchvision:resnet50 timm:levit_128s
    python experiments/zoo.py --table experiments/results/zoo.json

Each architecture is built without downloads, pruned by 0.3 with `prune.channels`, exported as it is
and with 8 bits, reloaded, and compared with the edited model in memory: in a process of its own,
with one thread and a time limit. The state is *pruned*, *refused* (with the technique's reason),
*failed* or *timeout*. Needs torchvision, timm and transformers (`pip install paretune[zoo]`);
what is not installed is left out.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _zoo_models
import _zoo_table

LIMIT = 150
"""Seconds for one architecture."""
QUANTIZED = "onnxruntime"
"""Runtime of the artifacts in 8 bits."""


def stages(name: str, file: Path, quantized: str) -> None:
    """Run the stages of one architecture, and leave its outcome in `file`."""
    import torch
    from _zoo_stages import Bench

    torch.set_num_threads(1)
    Bench(_zoo_models.Zoo(name), name, file).run(quantized)


def alone(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run the stages in a process of its own; return the outcome also if it is killed."""
    file = folder / f"{name.replace(':', '-')}.json"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=stages, args=(name, file, asked.quantized))
    start = time.perf_counter()
    process.start()
    process.join(asked.limit)
    if late := process.is_alive():
        process.kill()
        process.join()
    row: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"name": name}
    if late and row["state"] == "timeout":
        row["reason"] = f"not done within {asked.limit} s"
    elif late:
        row["exports"][row["stage"].removeprefix("export ")] = f"timeout: after {asked.limit} s"
    elif process.exitcode:
        row |= {"state": "failed", "reason": f"its process ended with {process.exitcode}"}
    row["wall"] = round(time.perf_counter() - start, 1)
    return row


def run(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the outcomes of all architectures asked for, in their order."""
    installed = _zoo_models.present()
    for library, found in installed.items():
        if not found:
            print(f"{library} is not installed: its architectures are left out", file=sys.stderr)
    names = [n for n in asked.only or _zoo_models.names() if installed[n.partition(":")[0]]]
    multiprocessing.set_forkserver_preload(
        [library for library, found in installed.items() if found]
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool,
    ):
        rows = []
        for row in pool.map(lambda name: alone(name, Path(folder), asked), names):
            rows.append(row)
            print(_line(row), file=sys.stderr, flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['name']}: {row['state']} in {row['wall']} s {row['seconds']} {row['exports']} "
        + (" ".join([row["reason"], *row["left"]]))
    )


def main() -> None:
    """Run the zoo, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="LIBRARY:NAME")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--quantized", default=QUANTIZED)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    rows = json.loads(asked.table.read_text()) if asked.table else run(asked)
    print(_zoo_table.table(rows))


if __name__ == "__main__":
    main()
