"""What a placement needs that a host may not have: asked before anything is paid."""

from objectives.runtime import Runtime
from objectives.target import Target
from spaces import Encoding, Placement
from spaces.devices import device_of


def devices(target: Target) -> int:
    """Return how many devices this host has: accelerators, or sets of `target.threads` cores."""
    device = device_of(target.device)
    return device.count() if device.accelerator else max(1, device.count() // target.threads)


def lacks(target: Target, placement: Placement) -> str | None:
    """Return in one sentence why this host cannot measure on a placement, None if it can."""
    if placement.count > 1:
        return _too_many(target, placement.count)
    device = device_of(target.device)
    if device.accelerator or target.threads <= (cores := device.count()):
        return None
    return (
        f"the target has {target.threads} threads and this host {_spelled(cores, 'core')}: measure "
        "where it has as many, or lower target.threads"
    )


def _too_many(target: Target, count: int) -> str | None:
    if count <= devices(target):
        return None
    asked, device = f"{count} devices were asked for", device_of(target.device)
    if device.accelerator:
        return f"{asked}, this host has {_spelled(device.count(), device.accelerator)}"
    each = _spelled(target.threads, "core")
    return f"{asked}, with {each} each, and this host has {_spelled(device.count(), 'core')}"


def refuses(placement: Placement, encoding: Encoding, name: str, runtime: Runtime) -> str | None:
    """Return in one sentence why a placement cannot be had on any host, None if it can.

    `name` is the runtime's.
    """
    if placement.count == 1:
        return None
    if placement.strategy in ("tensor", "pipeline"):
        if not runtime.splits:
            return f"{name} executes a whole graph, {placement.strategy} parallelism splits it"
        if encoding.quantized:
            return f"{name}'s integer layers cannot be split by {placement.strategy} parallelism"
        if encoding.dtype == "float8":
            return f"{name}'s float8 layers cannot be split by {placement.strategy} parallelism"
    return None


def _spelled(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
