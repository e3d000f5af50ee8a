"""Recovery training on several devices, with one process for each."""

from spaces.training.distributed.launcher import Broken, sharing, train_together

__all__ = ["Broken", "sharing", "train_together"]
