"""Measured times of layers by their bits; times that cannot be told apart are made equal."""

import dataclasses
from collections.abc import Mapping, Sequence

from spaces import Time
from spaces.techniques.quantize.mixed.kinds import Kind

ALIKE = 0.1
"""Share by which times must differ to count; those of two loads of a file can differ by half."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """Measured times of kinds of layers, and the kinds that use each weight."""

    uses: Mapping[str, Sequence[Kind]]
    """The kinds of the layers that use a weight, by its name."""
    table: Mapping[Kind, Mapping[int, Time]]
    """Times by kind and bits; kinds without times count as equally fast at any width."""

    def of(self, widths: Sequence[int]) -> dict[str, list[float]]:
        """Return the total milliseconds of each weight's layers with each of `widths`.

        Times that cannot be told apart count as equal: see `settled`.
        """
        times = {kind: settled(by_bits) for kind, by_bits in self.table.items()}
        return {
            name: [sum(times[k][bits] for k in kinds if k in times) for bits in widths]
            for name, kinds in self.uses.items()
        }

    def differ(self) -> bool:
        """Return True if the time of any layer depends on its width."""
        return any(len(set(settled(times).values())) > 1 for times in self.table.values())


def settled(times: Mapping[int, Time]) -> dict[int, float]:
    """Return the times of one layer by bits, with times that cannot be told apart made equal.

    In ascending order, a time joins the group before it if its interval overlaps that of the
    group's fastest, or if it is within ALIKE of it. All times of a group become their mean, rounded
    to two digits. Thus noise decides nothing that a second measurement would decide otherwise.
    """
    groups: list[list[int]] = []
    for bits in sorted(times, key=lambda b: (times[b].value, b)):
        time, fastest = times[bits], times[groups[-1][0]] if groups else None
        if fastest and (time.low <= fastest.high or time.value <= (1 + ALIKE) * fastest.value):
            groups[-1].append(bits)
        else:
            groups.append([bits])
    means = [sum(times[b].value for b in group) / len(group) for group in groups]
    return {b: float(f"{m:.2g}") for group, m in zip(groups, means, strict=True) for b in group}
