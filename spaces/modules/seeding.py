"""Randomness that leaves no trace: the user's generators are as before afterwards."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators inside the block, then restore them.

    User code draws from whichever of the three it likes.
    """
    python, numeric = random.getstate(), np.random.get_state()
    # asking an idle GPU for its generator would start it, and no process can be forked after that
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numeric)
