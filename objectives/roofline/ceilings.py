"""Ceilings: the highest rates of operations and bytes that were measured on a device."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from objectives.work import Work

FREELY_ROUNDED = {"float32": "tf32"}
"""Narrower type to which PyTorch's convolutions on GPUs round the inputs of another type."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The highest rates of operations and bytes that were measured on a device.

    Caches copy faster than memory, and a small model stays in them from run to run. So the rate of
    bytes depends on how many of them a batch needs, its working set. Source: Ilic et al. 2014,
    Cache-aware roofline model: upgrading the loft.
    """

    operations: Mapping[str, float]
    """Operations a second of a large matrix product, by type."""
    bytes: Mapping[int, float]
    """Bytes a second of a copy, read and written ones, by the bytes that it touches."""

    def peak(self, precision: str) -> float:
        """Return the operations a second that products of a type can reach.

        A type without fast products can be computed in float32, so that the rate of float32 is the
        least. Types that were not measured have that one.
        """
        types = {precision, "float32", FREELY_ROUNDED.get(precision)}
        return max(rate for name, rate in self.operations.items() if name in types)

    def bandwidth(self, working_set: int) -> float:
        """Return the bytes a second at which a working set can be moved.

        It is the highest rate of all measured sizes but those that are smaller by a step or more.
        """
        sizes = sorted(self.bytes)
        start = max((size for size in sizes if size <= working_set), default=sizes[0])
        return max(self.bytes[size] for size in sizes if size >= start)

    def seconds(self, work: Work) -> float:
        """Return the shortest time of a batch, the longer one of arithmetic and traffic.

        Source: Williams et al. 2009, Roofline: an insightful visual performance model for multicore
        architectures.
        """
        arithmetic = work.operations / self.peak(work.precision)
        return max(arithmetic, work.bytes / self.bandwidth(work.bytes))

    def highest(self, other: Self) -> Self:
        """Return the higher rate of two measurements of the same device, each by itself."""
        return dataclasses.replace(
            self,
            operations={k: max(v, other.operations.get(k, v)) for k, v in self.operations.items()},
            bytes={k: max(v, other.bytes.get(k, v)) for k, v in self.bytes.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the rates as plain data."""
        return {
            "operations": dict(self.operations),
            "bytes": {str(size): rate for size, rate in self.bytes.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the ceilings that `to_json` described."""
        sizes = {int(size): float(rate) for size, rate in data["bytes"].items()}
        return cls(operations=dict(data["operations"]), bytes=sizes)
