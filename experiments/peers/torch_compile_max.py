"""torch.compile with autotuning and frozen weights; it works in the process and has no file.

Source: https://docs.pytorch.org, torch.compile: `mode="max-autotune"`; freezing inlines weights
as constants, which is the advice for inference on a CPU.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._inductor import config

from peers._plain import ModuleProgram, Program

TITLE = "torch.compile, max-autotune, frozen"


class _Frozen(ModuleProgram):
    """A module that is compiled by its first batch, its weights as constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(torch.compile(model, mode="max-autotune"))
        self.compiled = False

    def run(self, feed: Any) -> Any:
        """Execute one batch."""
        if self.compiled:
            return super().run(feed)
        with config.patch(freezing=True):
            outputs = super().run(feed)
        self.compiled = True
        return outputs


def build(model: nn.Module, example_inputs: Any, calibration: Sequence[Any], folder: Path) -> None:
    """Write nothing: the model is compiled where it runs."""


def load(folder: Path, model: nn.Module, threads: int) -> Program:
    """Return the module, to be compiled by its first batch."""
    return frozen(copy.deepcopy(model))


def frozen(model: nn.Module) -> Program:
    """Return `model`, to be compiled by its first batch."""
    return _Frozen(model)
