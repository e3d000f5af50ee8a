"""Commands that check a run: verify, audit, compare, and the noise of this machine."""

import dataclasses
import json as json_module
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from search.trust import Audits, Comparison, Noise, Verified

EXAMPLES = {
    "verify": """examples:
  python -m search verify runs/digits                   the baseline and every member of the front
  python -m search verify runs/digits --trial 12        one trial
exit code 1 if anything is not equal""",
    "audit": """examples:
  python -m search audit runs/digits                    one member at random; repeat it now and then
  python -m search audit runs/digits --seed 1           a member that can be drawn again""",
    "compare": """examples:
  python -m search compare runs/a runs/b                gains relative to the baseline of runs/a""",
}
UNEQUAL = 1
"""Exit code of `verify` if a rebuilt member is not equal."""


def add_commands(add: Callable[..., "argparse.ArgumentParser"], commands: Any) -> None:
    """Add the commands to a parser."""
    command = add(commands, verify)
    command.add_argument("folder", metavar="RUN", type=Path)
    command.add_argument("--trial", type=int, help="this trial alone")
    command.add_argument("--json", action="store_true")
    command = add(commands, audit)
    command.add_argument("folder", metavar="RUN", type=Path)
    command.add_argument("--seed", type=int, help="draws the member")
    command.add_argument("--json", action="store_true")
    command = add(commands, compare)
    command.add_argument("first", metavar="RUN", type=Path)
    command.add_argument("second", metavar="RUN", type=Path)
    command.add_argument("--json", action="store_true")


def verify(folder: Path, trial: int | None, json: bool) -> int:
    """Rebuild members of a front from their records: files, scores and times equal or not."""
    from search import api

    verified = api.verify(folder, trial=trial)
    if json:
        _print([dataclasses.asdict(v) | {"equal": v.equal} for v in verified])
    else:
        print("\n".join(_verified_lines(verified)))
    return 0 if all(v.equal for v in verified) else UNEQUAL


def audit(folder: Path, seed: int | None, json: bool) -> int:
    """Measure one member of a front again, at random, and count the intervals that held."""
    from search import api

    audits = api.audit(folder, seed=seed)
    if json:
        share, low, high = audits.coverage
        coverage = {"held": audits.held, "of": len(audits.all), "share": share}
        coverage |= {"low": low, "high": high}
        _print({"audits": [a.to_json() for a in audits.latest], "coverage": coverage})
    else:
        print("\n".join(_audit_lines(audits)))
    return 0


def compare(first: Path, second: Path, json: bool) -> int:
    """Show the fronts of two runs on one scale, with their members timed in turns."""
    from search import api

    comparison = api.compare(first, second)
    if json:
        rows = [
            {"name": r.name, "on_union": r.on_union, "dominated_by": r.dominated_by}
            | {"record": r.record.to_json()}
            for r in comparison.rows
        ]
        content: dict[str, Any] = {"runs": comparison.runs}
        content |= {"hypervolumes": comparison.hypervolumes}
        content |= {"baseline": comparison.baseline.to_json(), "warnings": comparison.warnings}
        _print(content | {"members": rows})
    else:
        print("\n".join(_comparison_lines(comparison)))
    return 0


def noise_report(*, as_json: bool) -> str:
    """Return the noise of this machine now as text or as JSON."""
    from search import api

    found = api.noise()
    if as_json:
        content = dataclasses.asdict(found) | {"smallest_difference": found.smallest_difference}
        return json_module.dumps(content, indent=1)
    return "\n".join(_noise_lines(found))


def _noise_lines(noise: "Noise") -> list[str]:
    values = [ratio.value for ratio in noise.ratios]
    smallest = 100 * noise.smallest_difference
    return [
        f"smallest difference that one comparison can tell now: {smallest:.1f} %",
        f"from {len(values)} comparisons of two copies of the digits network in {noise.runtime}, "
        "timed in turns",
        f"ratio of the copies, 1 but for noise: {min(values):.3f} to {max(values):.3f}; "
        f"{noise.held} of {len(values)} intervals contain 1",
        f"pace of the machine meanwhile: {noise.pace[0]:.2f} to {noise.pace[1]:.2f} of the median "
        "time",
        f"share of the CPU used by others: {100 * noise.others:.0f} %",
    ]


def _verified_lines(verified: "Sequence[Verified]") -> list[str]:
    rows = [["trial", "runtime", "property", "", "", "point"]]
    for member in verified:
        for number, check in enumerate(member.checks):
            verdict = {True: "equal", False: "NOT EQUAL", None: "not compared"}[check.equal]
            first = [str(member.trial), member.runtime] if number == 0 else ["", ""]
            rows.append([*first, check.name, verdict, check.text, "" if number else member.point])
    unequal = sum(not v.equal for v in verified)
    summary = f"{len(verified) - unequal} of {len(verified)} members came out equal"
    return [*_table(rows), summary]


def _audit_lines(audits: "Audits") -> list[str]:
    lines = []
    for audit in audits.latest:
        old, new = audit.recorded, audit.measured
        lines.append(
            f"trial {audit.trial}, drawn at random: {audit.objective} recorded as {old.value:.4f} "
            f"of the baseline's ({old.low:.4f} to {old.high:.4f}), now {new.value:.4f}: "
            f"{'inside' if audit.inside else 'OUTSIDE'}"
        )
    share, low, high = (f"{100 * value:.0f}" for value in audits.coverage)
    lines.append(
        f"{audits.held} of {len(audits.all)} intervals held: {share} %, 95 % interval {low} to "
        f"{high} %"
    )
    return lines


def _comparison_lines(comparison: "Comparison") -> list[str]:
    from search.reporting import change, quantity

    axes, baseline = comparison.axes, comparison.baseline
    rows = [["", "runtime", *(a.name for a in axes), *(["gain"] * len(axes)), "of both", ""]]
    values = [quantity(axis.value(baseline), axis.unit) for axis in axes]
    rows.append(["baseline of A", baseline.runtime, *values, *([""] * len(axes)), "", ""])
    for row in comparison.rows:
        values = [quantity(axis.value(row.record), axis.unit) for axis in axes]
        gains = [change(row.record, axis, baseline) for axis in axes]
        dominated = f"dominated by {', '.join(row.dominated_by)}" if row.dominated_by else ""
        union = "front" if row.on_union else "-"
        rows.append([row.name, row.record.runtime, *values, *gains, union, dominated])
    volumes = {k: f"{v:.3g}" for k, v in comparison.hypervolumes.items()}
    return [
        *(f"{letter}: {folder}" for letter, folder in comparison.runs.items()),
        *_table(rows),
        f"hypervolume: A {volumes['A']}, B {volumes['B']}, both together {volumes['union']} (the "
        "baseline alone has 1)",
        *(f"warning: {warning}" for warning in comparison.warnings),
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _print(content: Any) -> None:
    print(json_module.dumps(content, indent=1, allow_nan=False))
