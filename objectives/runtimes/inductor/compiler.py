"""What compiling ahead of time does otherwise on one kind of device than on others."""

import abc
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from objectives.runtime import Export, Program, Signature
from objectives.target import Target
from spaces import Encoding, Precision

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
"""What torch.export, torchao and Inductor raise on models that they cannot take."""


class Compiler(abc.ABC):
    """How models become packages for one kind of device, and packages programs."""

    device: str
    """Its name, as in a target."""

    @abc.abstractmethod
    def lacks_kernels(self, encoding: Encoding, kinds: frozenset[str]) -> str | None:
        """Return why an encoding has no real kernels, None if it has."""

    @abc.abstractmethod
    def prepared(self, export: Export) -> tuple[nn.Module, Any, dict[str, Any]]:
        """Return model and inputs as they are compiled, and what a manifest says of the layers.

        They are where they are to run, in the encoding's type.
        """

    def quantized(self, program: ExportedProgram, export: Export) -> nn.Module | None:
        """Return a program with layers in few bits; None where they are in it already."""
        del program, export
        return None

    @abc.abstractmethod
    def options(self, program: ExportedProgram, export: Export, scratch: str) -> dict[str, Any]:
        """Return Inductor's settings; what it generates is written into `scratch`."""

    @abc.abstractmethod
    def packed(self, files: Sequence[Any], export: Export, scratch: Path) -> list[Any]:
        """Return those of the generated files that a run needs.

        Raises Infeasible where they do not compute in the encoding.
        """

    @abc.abstractmethod
    def load(
        self,
        file: Path,
        signature: Signature,
        target: Target,
        dtype: Precision,
    ) -> Program:
        """Return a package as a program that takes inputs of a type."""


def cxx() -> str | None:
    """Return the first C++ compiler of $CXX, g++ and clang++, None without one."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)
