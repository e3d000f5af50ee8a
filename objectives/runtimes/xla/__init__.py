"""XLA: StableHLO modules that PJRT compiles and runs, the road to TPUs."""

from objectives.runtimes.xla.runtime import Xla

__all__ = ["Xla"]
