"""This machine: quiet timing, processors, files."""

from objectives.host.cpu import cores, dot_products, flags, processor
from objectives.host.files import new_file, new_folder, write_json, write_text
from objectives.host.lane import enrolled, exclusive, others, pin, revive

__all__ = [
    "cores",
    "dot_products",
    "enrolled",
    "exclusive",
    "flags",
    "new_file",
    "new_folder",
    "others",
    "pin",
    "processor",
    "revive",
    "write_json",
    "write_text",
]
