"""Placements that a host or a runtime cannot execute, refused before anything runs."""

from objectives.runtime import Runtime
from objectives.target import Target
from spaces import Encoding, Placement
from spaces.devices import device_of


def devices(target: Target) -> int:
    """Return this host's number of devices: accelerators, or sets of `target.threads` cores."""
    device = device_of(target.device)
    return device.count() if device.accelerator else max(1, device.count() // target.threads)


def lacks(target: Target, placement: Placement) -> str | None:
    """Reason, in one sentence, why this host cannot measure on a placement; None if it can."""
    if placement.count > 1:
        return _too_many(target, placement.count)
    device = device_of(target.device)
    if device.accelerator or target.threads <= (cores := device.count()):
        return None
    return (
        f"the target has {target.threads} threads and this host {_counted(cores, 'core')}: measure "
        "where it has as many, or lower target.threads"
    )


def _too_many(target: Target, count: int) -> str | None:
    if count <= devices(target):
        return None
    request, device = f"{count} devices were asked for", device_of(target.device)
    if device.accelerator:
        return f"{request}, this host has {_counted(device.count(), device.accelerator)}"
    each = _counted(target.threads, "core")
    return f"{request}, with {each} each, and this host has {_counted(device.count(), 'core')}"


def refuses(placement: Placement, encoding: Encoding, name: str, runtime: Runtime) -> str | None:
    """Reason, in one sentence, why no host can execute a placement; None if some can.

    `name` is the runtime's name in the experiment.
    """
    if placement.count == 1:
        return None
    if encoding.dtype == "tf32":
        return "several devices compute float32 as PyTorch does by default, not in tf32"
    if placement.strategy in ("tensor", "pipeline"):
        if not runtime.splits:
            return f"{name} executes a whole graph, {placement.strategy} parallelism splits it"
        if encoding.quantized:
            return f"{name}'s integer layers cannot be split by {placement.strategy} parallelism"
        if encoding.dtype == "float8":
            return f"{name}'s float8 layers cannot be split by {placement.strategy} parallelism"
    return None


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
