"""Where a chosen model will be deployed, and on what measurements are therefore taken."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The deployment that latency is measured for."""

    device: str = "cpu"
    threads: int = 1
    """Threads of one inference."""
    batch_size: int = 1
    """Samples of one inference."""
