"""Ceilings of this host, measured once and kept in the system's folder of temporary files."""

import functools
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from objectives.host import others, processor, write_json
from objectives.roofline.ceilings import Ceilings
from objectives.roofline.rates import measure
from objectives.target import Target
from spaces.devices import device_of

BUSY = 0.1
"""Load of the cores by others, as a share, from which ceilings may be too low."""
AGAIN = 600.0
"""Seconds after which ceilings of a busy host are worth another measurement."""


@functools.cache  # every burst of an objective asks for it
def ceilings_of(target: Target) -> Ceilings:
    """Return the ceilings of a target on this host, measured unless they were before.

    The caller holds the host's exclusive lane.
    """
    stored = _stored(target)
    return Ceilings.from_json(stored) if stored else _measured(target, None)


def renewed(target: Target) -> Ceilings:
    """Return the ceilings of a target, measured again if the host was busy the last time.

    The highest rates of all measurements are kept. The caller holds the host's exclusive lane.
    """
    stored = _stored(target)
    if stored and (stored["load"] < BUSY or time.time() - stored["time"] < AGAIN):
        return Ceilings.from_json(stored)
    return _measured(target, Ceilings.from_json(stored) if stored else None)


def _stored(target: Target) -> dict[str, Any] | None:
    file = place(target)
    return dict(json.loads(file.read_text())) if file.is_file() else None


def _measured(target: Target, before: Ceilings | None) -> Ceilings:
    load = 0.0 if device_of(target.device).accelerator else others()
    ceilings = measure(target)
    ceilings = ceilings.highest(before) if before else ceilings
    file, state = place(target), {"load": load, "time": time.time()}
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_json(file, ceilings.to_json() | state | _identity(target))
    return ceilings


def place(target: Target) -> Path:
    """Return the file of a target's ceilings; they are measured anew without it."""
    text = json.dumps(_identity(target), sort_keys=True)
    folder = Path(tempfile.gettempdir()) / f"paretune-ceilings-{os.getuid()}"
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _identity(target: Target) -> dict[str, Any]:
    """Return what the rates depend on."""
    return {
        "processor": processor(),
        "device": target.device,
        "products": device_of(target.device).product_names()[:1],
        "threads": target.threads,
        "torch": torch.__version__,
    }
