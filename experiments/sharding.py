"""Recovery training of one model sharded over several devices: time, memory, and the same curve.

    python experiments/sharding.py [--device cuda] [--devices 1 2 4] [--steps 20] [--batch 64]
        [--rate 1e-5] [--width 2048] [--heads 16] [--hidden 5504] [--blocks 30] [--dtype auto]
        [--out experiments/results/sharding.json]

The model is the decoder of gpu/decoder.py, of 1.5 billion parameters by default. Its weights are
rounded to 2 bits, and `recover`, which a search calls too, trains them with the unrounded model as
the teacher. Every number of devices has the same seed and the same batches, so the losses must be
those of the first number up to rounding. On CPUs a device is a process, whose memory is not told.
Results are written after each number of devices.
"""

import argparse
import copy
import dataclasses
import datetime
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments" / "gpu")]

from decoder import Decoder

from objectives.artifacts import versions
from spaces import Recovery
from spaces.devices import device_of
from spaces.training import recovery

BITS = 2
AGREEMENT = {"float32": 1e-3, "bfloat16": 2e-2}
"""Largest relative difference of a step's loss that is due to rounding, by type of training."""


def main() -> None:
    """Train on each number of devices, print a table and write it as JSON."""
    asked = _arguments()
    sizes = ("width", "heads", "hidden", "blocks", "tokens", "classes")
    task = Decoder(**{name: getattr(asked, name) for name in sizes})
    recipe = Recovery(
        steps=asked.steps,
        batch_size=asked.batch,
        teacher_weight=0.9,
        temperature=4.0,
        learning_rate=asked.rate,
        dtype=asked.dtype,
        sharding="shard",
    )
    reference = task.model()
    rows: list[dict[str, Any]] = []
    print("devices  s a step  GB a device  first loss  last loss  largest difference", flush=True)
    for count in asked.devices:
        rows.append(trained(task, reference, dataclasses.replace(recipe, devices=count), asked))
        rows[-1] |= compared(rows[0], rows[-1])
        print(line(rows[-1]), flush=True)
        if asked.out:
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            content = {"facts": facts(asked, reference), "rows": rows}
            asked.out.write_text(json.dumps(content, indent=1) + "\n")
    if not all(row["agrees"] for row in rows):
        raise SystemExit("the losses differ by more than rounding explains")


def trained(
    task: Decoder, reference: nn.Module, recipe: Recovery, asked: argparse.Namespace
) -> dict[str, Any]:
    """Return what one training took, with the loss of each step."""
    losses: list[float] = []
    ends: list[float] = []
    outcomes: list[recovery.Outcome] = []

    def stepped(step: int, steps: int, loss: float) -> None:
        losses.append(loss)
        ends.append(time.monotonic())

    for split in ("train", "validation"):  # labels are made here, not by every process
        next(task.batches(split, 2))
    student = rounded(copy.deepcopy(reference)).to(asked.device)
    start = time.monotonic()
    recovery.recover(
        student, reference, task, recipe, seed=0, progress=stepped, ended=outcomes.append
    )
    whole = time.monotonic() - start
    seconds = [b - a for a, b in itertools.pairwise(ends)]
    found = {
        "devices": recipe.devices,
        "sharded": recipe.devices > 1,
        "seconds_a_step": statistics.median(seconds),
        "seconds": seconds,
        "seconds_to_first_step": ends[0] - start,
        "seconds_after_last_step": start + whole - ends[-1],
        "losses": losses,
        **dataclasses.asdict(outcomes[0]),
    }
    del student
    device_of(asked.device).empty_cache()
    return found


@torch.no_grad()
def rounded(model: nn.Module) -> nn.Module:
    """Round each matrix of `model`, in place, to BITS bits around zero."""
    levels = 2 ** (BITS - 1) - 1
    for weight in model.parameters():
        if weight.dim() > 1:
            scale = weight.abs().amax(1, keepdim=True) / levels
            weight.copy_((weight / scale).round() * scale)
    return model


def compared(first: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return how far the losses are from those of the first row, and the gain in time a step."""
    pairs = zip(first["losses"], row["losses"], strict=True)
    difference = max(abs(a - b) / abs(a) for a, b in pairs)
    memory = {"memory_gain": first["memory"] / row["memory"]} if row["memory"] else {}
    return {
        "largest_difference": difference,
        "agrees": difference <= AGREEMENT[row["dtype"]],
        "gain": first["seconds_a_step"] / row["seconds_a_step"],
        **memory,
    }


def line(row: dict[str, Any]) -> str:
    """Return the row as text."""
    memory = f"{row['memory'] / 1e9:.1f}" if row["memory"] else "unknown"
    left = f"{row['devices']:>7}  {row['seconds_a_step']:>8.3f}  {memory:>11}"
    right = f"{row['losses'][0]:>10.4f}  {row['losses'][-1]:>9.4f}"
    return f"{left}  {right}  {row['largest_difference']:>18.1e}"


def facts(asked: argparse.Namespace, reference: nn.Module) -> dict[str, Any]:
    """Return the command, the machine and the model's size."""
    return {
        "command": "python experiments/sharding.py " + " ".join(sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "devices": device_of(asked.device).product_names(),
        "parameters": sum(p.numel() for p in reference.parameters()),
        "versions": versions(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-5, help="peak learning rate of AdamW")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=5504)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dtype", choices=("auto", *AGREEMENT), default="auto")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
