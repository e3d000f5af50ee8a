"""Seed the global random generators inside a context and restore them on exit."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from spaces.devices import all_devices


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside the block, then restore them.

    User code may draw from any of the three.
    """
    python, numeric = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        for device in all_devices():
            stack.enter_context(device.fork_rng())
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numeric)
