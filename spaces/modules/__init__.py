"""Helpers for any module: trees of tensors, structural edits, modes, devices, integer codes."""

from spaces.modules import samples
from spaces.modules.batchnorm_statistics import reestimate
from spaces.modules.caches import Caches
from spaces.modules.codes import Codes, compact, pack, planes, unpack
from spaces.modules.dropped import carried, drop
from spaces.modules.identity import identity
from spaces.modules.layer_types import (
    BatchNorm,
    Convolution,
    Dropout,
    TransposedConvolution,
)
from spaces.modules.modes import differentiable, evaluating
from spaces.modules.module_tables import own_parameters
from spaces.modules.on_device import placed, workplace
from spaces.modules.operations import Operations, counted
from spaces.modules.seeding import seeded
from spaces.modules.surgery import ARCHITECTURE, WEIGHTS, describe, rebuild, tensors
from spaces.modules.trees import (
    call,
    concatenate,
    flatten,
    length,
    names,
    plain,
    rows,
    transform,
    unflatten,
)

__all__ = [
    "ARCHITECTURE",
    "WEIGHTS",
    "BatchNorm",
    "Caches",
    "Codes",
    "Convolution",
    "Dropout",
    "Operations",
    "TransposedConvolution",
    "batchnorm_statistics",
    "call",
    "carried",
    "compact",
    "concatenate",
    "counted",
    "describe",
    "differentiable",
    "drop",
    "evaluating",
    "flatten",
    "identity",
    "length",
    "names",
    "own_parameters",
    "pack",
    "placed",
    "plain",
    "planes",
    "rebuild",
    "reestimate",
    "rows",
    "samples",
    "seeded",
    "surgery",
    "tensors",
    "transform",
    "unflatten",
    "unpack",
    "workplace",
]
