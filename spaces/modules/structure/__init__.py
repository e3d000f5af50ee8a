"""What depends on what in a model: coupled channels, heads, readers, removal."""

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
