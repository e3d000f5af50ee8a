"""Recovery training on several devices, a process each."""

from spaces.training.distributed.launcher import Broken, sharing, train_together

__all__ = ["Broken", "sharing", "train_together"]
