"""Compares the points that a run found with what others offer in one shot, on this machine.

    python experiments/compare.py PATH/TO/cifar10 --run runs/cifar10-resnet20

Everything is built, timed and scored in one run: the recipes of peers/, one build each, and the
files of the run's front, opened without the code that made them. Timing is interleaved; accuracy
is that of the same files on the whole test split. Needs the packages of constraints.txt.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import _building
import _front
import _timing
import _workload
import torch
from _table import EAGER, OURS, Row, store, table, verdict, winners_of
from peers._plain import Program, Skipped, filled, tensors
from torch import nn


def main() -> int:
    """Run the comparison that the command line asks for."""
    asked = _arguments()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    user = _workload.read(asked.workload)
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        ours = _picks(asked.run)
        rows = _peers(asked, Path(scratch)) | ours
        calls = _load(rows, user)
        timed = _timed(calls, asked, "timing")
        _score(rows, user, asked.batches)
        winners = winners_of(rows, timed, asked.within)
        # again, since the fastest of many is in part the luckiest
        duel = _timed({name: calls[name] for name in winners}, asked, "timing the two fastest")
        for row in rows.values():
            row.megabytes = _building.megabytes(row.folder)
    if asked.batches:
        print(f"A quick look: scored on {asked.batches} batches of the test split only.\n")
    print(table(rows, timed))
    print("\n" + verdict(rows, timed, winners, duel, asked.within))
    if asked.out:
        store(asked.out, user, rows, timed, winners, duel)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("workload", type=Path, help="folder with task.py and experiment.toml")
    parser.add_argument("--run", type=Path, help="folder of a run, with its front.json")
    parser.add_argument("--out", type=Path, help="JSON file to write the raw results to")
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--seconds", type=float, default=0.03, help="of each candidate in a round")
    parser.add_argument("--within", type=float, default=0.01, help="of the uncompressed accuracy")
    parser.add_argument("--batches", type=int, help="score only so many, for a quick look")
    parser.add_argument("--peers", nargs="*", default=_building.names(), help="only these recipes")
    asked = parser.parse_args()
    if unknown := set(asked.peers) - set(_building.names()):
        parser.error(f"no such recipe: {', '.join(sorted(unknown))}")
    if asked.run and not (asked.run / "front.json").is_file():
        parser.error(f"{asked.run} has no front.json: its search has not ended")
    if not (asked.workload / "experiment.toml").is_file():
        parser.error(f"{asked.workload} is no workload: it has no experiment.toml")
    asked.peers = [EAGER, *(name for name in asked.peers if name != EAGER)]
    return asked


def _peers(asked: argparse.Namespace, scratch: Path) -> dict[str, Row]:
    """Return a row for each recipe, built."""
    rows = {}
    for name in asked.peers:
        print(f"building {name}", file=sys.stderr, flush=True)
        built = _building.build(name, asked.workload, scratch / name)
        rows[name] = Row(ours=False, folder=scratch / name, **built)
    return rows


def _picks(run: Path | None) -> dict[str, Row]:
    """Return a row for each point of a run's front, and for its baseline."""
    found = _front.picks(run) if run else []
    return {
        pick.name: Row(
            title=OURS + pick.name,
            ours=True,
            folder=pick.folder,
            pick=pick,
        )
        for pick in found
    }


def _pin(threads: int) -> None:
    """Keep this process on as many cores as an inference has threads, before any is started."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])


def _load(rows: dict[str, Row], user: _workload.Workload) -> dict[str, Callable[[], object]]:
    """Load every candidate and return, by name, what runs one batch of it."""
    _pin(user.threads)
    torch.set_num_threads(user.threads)
    model = user.model()
    inputs = next(inputs for inputs, _ in user.test())
    calls: dict[str, Callable[[], object]] = {}
    for name, row in rows.items():
        if row.state != "built":
            continue
        print(f"loading {name}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            calls[name] = _open(name, row, model, user.threads, inputs)
        except Skipped as error:
            row.state, row.reason = "skipped", str(error)
        except Exception as error:  # whatever another project raises is a row of the table
            row.state, row.reason = "failed", _building.reason(error)
        row.build_seconds += time.perf_counter() - start
    return calls


def _open(name: str, row: Row, model: nn.Module, threads: int, inputs: Any) -> Callable[[], object]:
    """Load a candidate, run it once and return what runs it again."""
    if row.pick:
        program = _front.load(row.pick, threads)
    else:
        program = _building.recipe(name).load(row.folder, model, threads)
    feed = program.feed(inputs)
    program.read(program.run(feed))
    row.program = program
    return lambda: program.run(feed)


def _timed(
    calls: Mapping[str, Callable[[], object]], asked: argparse.Namespace, title: str
) -> _timing.Rounds:
    return _timing.interleave(calls, rounds=asked.rounds, seconds=asked.seconds, title=title)


def _score(rows: dict[str, Row], user: _workload.Workload, most: int | None) -> None:
    """Score every candidate on the test split, at the batch size that it was timed at."""
    examples = list(itertools.islice(user.test(), most))
    targets = torch.cat([targets for _, targets in examples])
    for name, row in rows.items():
        if row.program:
            outputs = list(_outputs(row.program, [inputs for inputs, _ in examples], name))
            row.accuracy = user.score(torch.cat(outputs)[: len(targets)], targets)


def _outputs(program: Program, batches: Sequence[Any], name: str) -> Iterator[torch.Tensor]:
    """Yield the outputs of each batch; a short last one is filled up, for files of fixed shape."""
    size = len(tensors(batches[0])[0])
    for index, inputs in enumerate(batches):
        if index % 100 == 0 or index + 1 == len(batches):
            done = f"\rscoring {name}: {index + 1} of {len(batches)} batches"
            print(done, end="", file=sys.stderr, flush=True)
        yield program.read(program.run(program.feed(filled(inputs, size))))
    print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
