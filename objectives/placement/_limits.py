"""What a placement needs that a host may not have: asked before anything is paid."""

import os

import torch

from objectives._target import Target
from objectives.runtimes._runtime import Runtime
from spaces import Encoding, Placement


def devices(target: Target) -> int:
    """Return how many devices this host has: GPUs, or sets of `target.threads` cores."""
    if target.device == "cuda":
        return torch.cuda.device_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // target.threads)


def refuses(
    placement: Placement, encoding: Encoding, target: Target, name: str, runtime: Runtime
) -> str | None:
    """Return in one sentence why a placement cannot be had here, None if it can.

    `name` is the runtime's.
    """
    if placement.count == 1:
        return None
    if placement.count > (found := devices(target)):
        unit = "GPUs" if target.device == "cuda" else f"times {target.threads} cores"
        return f"{placement.count} devices were asked for, this host has {found} {unit}"
    if placement.strategy in ("tensor", "pipeline"):
        if not runtime.splits:
            return f"{name} executes a whole graph, {placement.strategy} parallelism splits it"
        if encoding.quantized:
            return f"{name}'s integer layers cannot be split by {placement.strategy} parallelism"
        if encoding.dtype == "float8":
            return f"{name}'s float8 layers cannot be split by {placement.strategy} parallelism"
    return None
