"""Entropy coding of the artifact's files: smaller to ship, the same when loaded."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice

CODERS = ("none", "lzma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coding(Technique):
    """Ship the artifact's files coded by `coder`; they are decoded once, when it is loaded.

    lzma is Python's own (the xz format): its range coder with adaptive models comes close to the
    entropy of single bytes, which codebook indices and integers have, and finds repetitions,
    which sparse weights have. Source: Han et al. 2016, Deep Compression, section 4 (Huffman).
    """

    stage = Stage.DEPLOY
    coder: str = axis("none", choice("none", "lzma"), unit="coder")

    def __post_init__(self) -> None:
        if self.coder not in CODERS:
            raise ValueError(f"coder must be one of {', '.join(CODERS)}, got {self.coder!r}")

    def plan(self, plan: Plan) -> Plan:
        """Ask for this coder."""
        return dataclasses.replace(
            plan, encoding=dataclasses.replace(plan.encoding, coding=self.coder)
        )

    def usual(self) -> tuple[Self, ...]:
        """Return lzma."""
        return (dataclasses.replace(self, coder="lzma"),)
