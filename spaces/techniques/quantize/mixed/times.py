"""How long layers take with each number of bits: measured elsewhere, plain data here."""

import dataclasses
from collections.abc import Mapping, Sequence

from spaces import Time
from spaces.techniques.quantize.mixed.kinds import Kind

ALIKE = 0.1
"""Share by which a time must differ to count: of two loads of one file, times differ by half."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """A table of measured times, kind by kind, and of which weights they are."""

    uses: Mapping[str, Sequence[Kind]]
    """The kinds of the layers that use a weight, by its name."""
    table: Mapping[Kind, Mapping[int, Time]]
    """By kind and bits; kinds that are not in it are taken to need the same time at any width."""

    def of(self, widths: Sequence[int]) -> dict[str, list[float]]:
        """Return the milliseconds that each weight's layers take together with each of `widths`.

        Times that cannot be told apart are one time: see `settled`.
        """
        known = {kind: settled(times) for kind, times in self.table.items()}
        return {
            name: [sum(known[k][bits] for k in kinds if k in known) for bits in widths]
            for name, kinds in self.uses.items()
        }

    def differ(self) -> bool:
        """Whether any width of any layer takes another time than the others."""
        return any(len(set(settled(times).values())) > 1 for times in self.table.values())


def settled(times: Mapping[int, Time]) -> dict[int, float]:
    """Return the times of one layer by bits, those that cannot be told apart made equal.

    From the fastest on, a time joins those before it as long as its interval overlaps that of
    their fastest or it is within ALIKE of it; all of a group get their mean, in two digits. So
    noise does not decide where measuring again would decide otherwise.
    """
    groups: list[list[int]] = []
    for bits in sorted(times, key=lambda b: (times[b].value, b)):
        own, first = times[bits], times[groups[-1][0]] if groups else None
        if first and (own.low <= first.high or own.value <= (1 + ALIKE) * first.value):
            groups[-1].append(bits)
        else:
            groups.append([bits])
    means = [sum(times[b].value for b in group) / len(group) for group in groups]
    return {b: float(f"{m:.2g}") for group, m in zip(groups, means, strict=True) for b in group}
