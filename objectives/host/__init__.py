"""This machine: quiet timing, processors, processes."""

from objectives.host.cpu import dot_products, flags
from objectives.host.lane import die_with_parent, enrolled, exclusive, others, pin, revive

__all__ = [
    "die_with_parent",
    "dot_products",
    "enrolled",
    "exclusive",
    "flags",
    "others",
    "pin",
    "revive",
]
