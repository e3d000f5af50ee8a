"""Host facilities: the exclusive timing lane, processor facts, atomic file writes."""

from objectives.host.cpu import cores, flags, has_dot_products, processor
from objectives.host.files import new_file, new_folder, write_json, write_text
from objectives.host.lane import enrolled, exclusive, others, pin, revive

__all__ = [
    "cores",
    "enrolled",
    "exclusive",
    "flags",
    "has_dot_products",
    "new_file",
    "new_folder",
    "others",
    "pin",
    "processor",
    "revive",
    "write_json",
    "write_text",
]
