"""Structure of a model: coupled channels, the units that they form, and the removal of units."""

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
