"""Replays tables of measured designs: how soon samplers reach a share of the best hypervolume.

    python experiments/tables.py TABLE.parquet --sampler structural tpe random --seeds 10

A suggestion that the table holds is answered by its row, and if the row is known already it costs
nothing; any other is answered by the nearest row not yet seen. The clock is simulated: a row takes
the seconds that the table tells (1 without), the sampler the processor time that it really takes.
Names of samplers are in _tables_players.py; the hypervolume is defined as in the tables' README.
"""

import argparse
import dataclasses
import heapq
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _tables_players import PLAYERS, Player
from _tables_table import Table

from spaces import Point

FREE = 30
"""Answers to known suggestions in a row after which a random unseen row is taken instead."""


@dataclasses.dataclass(kw_only=True)
class Replay:
    """One search on a table."""

    reached: dict[str, tuple[int, float]]
    """Evaluations and simulated seconds until each share of the hypervolume was reached."""
    evaluations: int
    asking: list[float]
    """Seconds of the sampler for each evaluation, with its repeated suggestions."""
    volumes: list[float]


def replay(
    table: Table, player: Player, seed: int, shares: Sequence[float], limit: int, workers: int
) -> Replay:
    """Search a table until the largest of `shares` is reached, or `limit` rows were evaluated."""
    unseen = np.ones(len(table.points), dtype=bool)
    draw = np.random.default_rng(seed)
    busy: list[tuple[float, int, Point]] = []
    found: list[int] = []
    result = Replay(reached={}, evaluations=0, asking=[], volumes=[])
    now = 0.0
    while len(found) < limit and len(result.reached) < len(shares):
        while len(busy) < workers and unseen.any():
            began = time.process_time()
            proposed, row = choose(table, player, unseen, [b[1] for b in busy], draw)
            result.asking.append(time.process_time() - began)
            now += result.asking[-1]
            unseen[row] = False
            heapq.heappush(busy, (now + float(table.seconds[row]), row, proposed))
        if not busy:
            break
        ended, row, proposed = heapq.heappop(busy)
        now = max(now, ended)
        player.tell(proposed, row)
        found.append(row)
        result.volumes.append(table.volume(found) / table.maximum)
        for share in shares:
            if result.volumes[-1] >= share and f"{share:g}" not in result.reached:
                result.reached[f"{share:g}"] = (len(found), now)
    result.evaluations = len(found)
    return result


def choose(
    table: Table,
    player: Player,
    unseen: Any,
    running: Sequence[int],
    draw: np.random.Generator,
) -> tuple[Point, int]:
    """Return a suggestion and the unseen row that answers it; known ones are answered at once.

    One whose row is being evaluated is answered by the nearest other row.
    """
    for _ in range(FREE):
        proposed = player.ask(running, unseen)
        row = table.row(table.space.canonical(proposed))
        if row is None or row in running:
            return proposed, table.nearest(table.space.canonical(proposed), unseen)
        if unseen[row]:
            return proposed, row
        player.tell(proposed, row)
    row = int(draw.choice(np.flatnonzero(unseen)))
    return table.points[row], row


def quartiles(values: Sequence[float | None], limit: float) -> str:
    """Return median and quartiles, where None is more than `limit`."""
    known = [np.inf if v is None else v for v in values]
    parts = [float(np.quantile(known, q, method="inverted_cdf")) for q in (0.25, 0.75)]
    middle = statistics.median(known)
    low, mid, high = (
        f"> {limit:g}" if v == np.inf else f"{v:.3g}" for v in (parts[0], middle, parts[1])
    )
    return f"{mid} ({low} to {high})"


def line(name: str, replays: Sequence[Replay], shares: Sequence[float], limit: int) -> str:
    """Return one row of the printed table."""
    cells = [name, str(len(replays))]
    for share in shares:
        reached = [r.reached.get(f"{share:g}") for r in replays]
        cells.append(quartiles([r[0] if r else None for r in reached], limit))
    for share in shares:
        reached = [r.reached.get(f"{share:g}") for r in replays]
        slowest = max(sum(r.asking) for r in replays)
        cells.append(quartiles([r[1] if r else None for r in reached], limit + slowest))
    asked = [a for r in replays for a in r.asking]
    cells.append(f"{statistics.mean(asked):.3f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Replay the tables of the command line, print a table and store raw results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", type=Path, help="Parquet files")
    parser.add_argument("--sampler", nargs="+", choices=PLAYERS, default=["structural"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--to", nargs="+", type=float, default=[0.95, 0.98, 0.99])
    parser.add_argument("--limit", type=int, default=500, help="largest number of evaluations")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--reference", choices=("wide", "tight"), default="wide")
    parser.add_argument("--rows-as-candidates", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file that the results are added to")
    args = parser.parse_args()
    for file in args.tables:
        table = Table.read(file, args.reference)
        shares = [f"{share:.0%}" for share in args.to]
        print(f"\n{table.name}, {args.reference} reference, {args.workers} worker(s)\n")
        print(
            "| sampler | seeds |",
            " | ".join([*shares, *(f"s to {s}" for s in shares), "s an ask"]),
            "|",
        )
        print("|---|" + "---:|" * (2 + 2 * len(shares)))
        for name in args.sampler:
            chosen = f"{name}, rows as candidates" if args.rows_as_candidates else name
            seeds = range(args.first_seed, args.first_seed + args.seeds)
            replays = [
                replay(table, PLAYERS[chosen](table, s), s, args.to, args.limit, args.workers)
                for s in seeds
            ]
            print(line(chosen, replays, args.to, args.limit), flush=True)
            if args.out:
                store(args.out, table, chosen, args, replays)


def store(
    out: Path, table: Table, name: str, args: argparse.Namespace, replays: Sequence[Replay]
) -> None:
    """Add the replays of one sampler to a JSON file, in place of earlier ones like it."""
    known = json.loads(out.read_text()) if out.exists() else {}
    key = f"{table.name} | {args.reference} | {args.workers} | {name}"
    known[key] = [
        dataclasses.asdict(r)
        | {
            "asking": [round(a, 4) for a in r.asking],
            "volumes": [round(v, 6) for v in r.volumes],
        }
        for r in replays
    ]
    out.write_text(json.dumps(known, sort_keys=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
