"""Compress the artifact's files by an entropy coder, without loss."""

import dataclasses
from typing import Self

from spaces import Plan, Stage, Technique, axis, choice

CODERS = ("none", "lzma")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coding(Technique):
    """Ship the artifact's files compressed by `coder`; they are decompressed when it is loaded.

    lzma is the xz format of Python's library. Its range coder with adaptive models comes close to
    the entropy of single bytes, as in codebook indices and integers, and it finds repetitions, as
    in sparse weights. Source: Han et al. 2016, Deep Compression, section 4 (Huffman).
    """

    stage = Stage.DEPLOY
    coder: str = axis("none", choice("none", "lzma"), unit="coder")

    def __post_init__(self) -> None:
        if self.coder not in CODERS:
            raise ValueError(f"coder must be one of {', '.join(CODERS)}, got {self.coder!r}")

    def plan(self, plan: Plan) -> Plan:
        """Set the coder."""
        return dataclasses.replace(
            plan, encoding=dataclasses.replace(plan.encoding, coding=self.coder)
        )

    def usual(self) -> tuple[Self, ...]:
        """Return lzma."""
        return (dataclasses.replace(self, coder="lzma"),)
