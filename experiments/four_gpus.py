"""Runs everything that needs several GPUs of one host, part by part, within one limit of time.

    python experiments/four_gpus.py --devices 4 --out FOLDER [--seconds 570]
        [--parts front-vit front-decoder-1 front-decoder-64 recovery scaling]
    python experiments/four_gpus.py --table FOLDER

front-NAME searches gpu/front-NAME.toml, one front of all device counts, with `auto` choosing how
devices share the work; recovery is sharding.py, scaling is scaling.py. Each part is a process that
is interrupted at its limit, and writes FOLDER/PART.json as soon as it ends; FOLDER/PART.log is what
it printed. A part that no longer fits into the time that is left is not begun. `--devices 2` does
the same on two GPUs, and `--device cpu` tries it with tiny shapes, where cores are the devices.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _four_gpus_tables as tables
import tomli_w

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GRACE = 25.0
"""Seconds that an interrupted part has to end."""
TINY = {"width": 64, "heads": 4, "hidden": 128, "classes": 10}
TINY_TASKS: dict[str, dict[str, Any]] = {
    "vit.py:Transformer": TINY | {"blocks": 2, "side": 32},
    "decoder.py:Decoder": TINY | {"blocks": 2, "tokens": 8},
}
"""Settings of the tasks on CPUs."""
SMALLEST = "decoder.py:Decoder"
"""Task on CPUs in place of those that have no settings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks for, and where files that are not kept go."""

    device: str
    devices: int
    out: Path
    scratch: Path
    search_seconds: float | None

    @property
    def tiny(self) -> bool:
        """True if the shapes are those for CPUs."""
        return self.device == "cpu"

    @property
    def counts(self) -> list[int]:
        """One device, all of them, and what lies between: the most telling first."""
        between = [2**k for k in range(1, 10) if 2**k < self.devices]
        return [1, *([self.devices] if self.devices > 1 else []), *between[::-1]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A command, the longest time that it may take and the shortest for which it is worth it."""

    command: Callable[[Asked, str], list[str]]
    limit: float
    least: float
    collect: Callable[[Asked, str], dict[str, Any]]


def main() -> None:
    """Run the parts that were asked for, or print the tables of a folder."""
    parsed = _parser().parse_args()
    if parsed.table:
        print(tables.markdown(parsed.table))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no part outlives this
    deadline = time.monotonic() + parsed.seconds
    parsed.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="four-gpus-") as scratch:
        asked = Asked(
            device=parsed.device,
            devices=parsed.devices,
            out=parsed.out.resolve(),
            scratch=Path(scratch),
            search_seconds=parsed.search_seconds,
        )
        for name in parsed.parts:
            left = deadline - time.monotonic() - GRACE
            if left < PARTS[name].least:
                print(f"{name}: not begun, {left:.0f} s are left", flush=True)
                continue
            result = run(name, PARTS[name], asked, min(PARTS[name].limit, left))
            (asked.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
            print(f"{name}: exit {result['exit']} after {result['seconds']:.0f} s", flush=True)
    print(tables.markdown(parsed.out))


def run(name: str, part: Part, asked: Asked, limit: float) -> dict[str, Any]:
    """Return what a part found, how it ended and how long it took."""
    command = part.command(asked, name)
    start = time.monotonic()
    with (asked.out / f"{name}.log").open("w") as log:
        code = ended(command, log, limit, asked)
    return {
        "command": " ".join(["python", *command[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": asked.device,
        "devices": asked.devices,
        "cores": os.cpu_count(),
        "limit": round(limit),
        "seconds": round(time.monotonic() - start, 1),
        "exit": code,
        **part.collect(asked, name),
    }


def ended(command: list[str], log: Any, limit: float, asked: Asked) -> int:
    """Run a command, interrupted at its limit and killed after GRACE; return its exit code."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "MLFLOW_TRACKING_URI": f"sqlite:///{asked.scratch / 'mlflow.db'}",
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
    finally:
        process.terminate()  # a script then ends what it has started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def front_command(asked: Asked, name: str) -> list[str]:
    """Return the search of a front; after its `--time` no trial starts, and it is confirmed."""
    seconds = asked.search_seconds or 200
    folder = asked.scratch / name
    command = [sys.executable, "-m", "search", "run", str(experiment(asked, name))]
    command += ["--out", str(folder), "--time", f"{seconds:g}s"]
    return [*command, "--workers", str(asked.devices)]


def front_found(asked: Asked, name: str) -> dict[str, Any]:
    """Return the records of a search and its front; None for one that was not confirmed."""
    folder = asked.scratch / name
    records, front = folder / "records.jsonl", folder / "front.json"
    lines = records.read_text().splitlines() if records.is_file() else []
    return {
        "front": json.loads(front.read_text()) if front.is_file() else None,
        "records": [json.loads(line) for line in lines],
    }


def scaling_command(asked: Asked, name: str) -> list[str]:
    """Return the command of scaling.py: most trials where most workers share them."""
    trials = {1: 9, 2: 18, 4: 48} if not asked.tiny else {1: 4, 2: 6, 4: 10}
    counts = asked.counts
    command = [sys.executable, "-u", str(HERE / "scaling.py"), str(experiment(asked, name))]
    command += ["--workers", *map(str, counts)]
    command += ["--trials", *(str(trials.get(count, 12 * count)) for count in counts)]
    command += ["--seconds", f"{asked.search_seconds or 240:g}"]
    return [*command, "--out", str(asked.scratch / f"{name}.json")]


def recovery_command(asked: Asked, name: str) -> list[str]:
    """Return the command of sharding.py."""
    command = [sys.executable, "-u", str(HERE / "sharding.py"), "--device", asked.device]
    if asked.tiny:
        tiny = TINY_TASKS[SMALLEST] | {"batch": 16, "steps": 6}
        command += [word for k, v in tiny.items() for word in (f"--{k}", str(v))]
    command += ["--devices", *map(str, asked.counts)]
    return [*command, "--out", str(asked.scratch / f"{name}.json")]


def script_found(asked: Asked, name: str) -> dict[str, Any]:
    """Return what a script wrote, which it does after each number of devices."""
    file = asked.scratch / f"{name}.json"
    return {"found": json.loads(file.read_text()) if file.is_file() else None}


def experiment(asked: Asked, name: str) -> Path:
    """Return the experiment of a part: the file in gpu/, or one like it of tiny shapes."""
    file = HERE / "gpu" / f"{name}.toml"
    if not asked.tiny:
        return file
    content = tomllib.loads(file.read_text())
    content["target"] |= {"device": "cpu", "threads": 1}
    ((task, _),) = content["task"].items()
    task = task if task in TINY_TASKS else SMALLEST
    content["task"] = {str(file.parent / task): TINY_TASKS[task]}
    ((sampler, settings),) = content["sampler"].items()
    content["sampler"] = {str(file.parent / sampler): settings}
    adapted = asked.scratch / f"{name}.toml"
    adapted.write_text(tomli_w.dumps(content))
    return adapted


def _front(limit: float) -> Part:
    return Part(command=front_command, limit=limit, least=250, collect=front_found)


PARTS = {
    "front-vit": _front(450),
    "front-decoder-64": _front(450),
    "front-decoder-1": _front(450),
    "recovery": Part(command=recovery_command, limit=240, least=90, collect=script_found),
    "scaling": Part(command=scaling_command, limit=560, least=200, collect=script_found),
}
"""The parts by name, with limits in seconds for four GPUs."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=570.0, help="of all parts together")
    parser.add_argument("--search-seconds", type=float, help="instead of those of a part's search")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "four-gpus")
    parser.add_argument(
        "--table", type=Path, metavar="FOLDER", help="print its tables, run nothing"
    )
    return parser


if __name__ == "__main__":
    main()
