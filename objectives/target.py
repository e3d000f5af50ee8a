"""Deployment target: device, threads and batch size of every measurement."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The deployment that candidates are measured for."""

    device: str = "cpu"
    """PyTorch device type: cpu, cuda."""
    threads: int = 1
    """CPU threads of one inference."""
    batch_size: int = 1
    """Samples in one inference."""
