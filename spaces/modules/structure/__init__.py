"""Structure of a model: which channels depend on each other, and how units of them are removed."""

from spaces.modules.structure.families import Coupled, Family, Member, Side, keep
from spaces.modules.structure.removal import Removal, Snapshot, attempt

__all__ = [
    "Coupled",
    "Family",
    "Member",
    "Removal",
    "Side",
    "Snapshot",
    "attempt",
    "coupling",
    "keep",
    "matrices",
    "readers",
]
