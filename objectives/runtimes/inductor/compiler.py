"""Interface of ahead-of-time compilation for one device type."""

import abc
import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from torch.export import ExportedProgram

from objectives.runtime import Export, Program, Signature
from objectives.target import Target
from spaces import Encoding


class Compiler(abc.ABC):
    """Interface of a compiler, which makes packages for one device type and loads them."""

    device: str
    """The device type, as in a target."""
    layouts: ClassVar[tuple[bool, ...]] = (False,)
    """Whether images have their channels innermost, in the order in which this is tried."""

    @abc.abstractmethod
    def lacks_kernels(self, encoding: Encoding, kinds: frozenset[str]) -> str | None:
        """Reason why an encoding has no real kernels; None if it has."""

    @abc.abstractmethod
    def prepared(
        self, export: Export, *, channels_last: bool
    ) -> tuple[nn.Module, Any, dict[str, Any]]:
        """Return model and inputs in the form in which they are traced, and manifest notes.

        Both are on the target's device, in the encoding's type, the model in the given layout.
        Raises Infeasible if no layer can have the encoding.
        """

    def quantized(self, program: ExportedProgram, export: Export) -> nn.Module | None:
        """Return the program with quantized layers; None if `program` needs no change.

        Raises Infeasible if it cannot be quantized.
        """
        del program, export
        return None

    @abc.abstractmethod
    def options(self, program: ExportedProgram, export: Export, scratch: str) -> dict[str, Any]:
        """Return Inductor's settings, by which generated files go into the folder `scratch`."""

    def circumstances(self, encoding: Encoding) -> contextlib.AbstractContextManager[None]:
        """Return the context in which a package of an encoding is compiled."""
        del encoding
        return contextlib.nullcontext()

    @abc.abstractmethod
    def packed(self, files: Sequence[Any], export: Export, scratch: Path) -> list[Any]:
        """Return the generated files that a run needs.

        Raises Infeasible if they do not compute in the encoding.
        """

    def executed(
        self, program: ExportedProgram, export: Export, scratch: Path
    ) -> list[dict[str, Any]] | None:
        """Return the products that the generated files compute, for the manifest's notes.

        `program` was traced before it was quantized. None if the files do not tell, or if a
        profiler tells it later.
        """
        del program, export, scratch
        return None

    @abc.abstractmethod
    def load(
        self, file: Path, signature: Signature, target: Target, notes: dict[str, Any]
    ) -> Program:
        """Load a package as a program; `notes` are those of its manifest."""


def cxx() -> str | None:
    """Return the path of the first C++ compiler among $CXX, g++ and clang++; None without one."""
    names = (os.environ.get("CXX", ""), "g++", "clang++")
    return next((path for name in names if name and (path := shutil.which(name))), None)
