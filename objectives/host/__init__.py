"""Host facilities: the exclusive lane, processor facts, energy counters, atomic writes."""

from objectives.host.cpu import cores, flags, has_dot_products, processor
from objectives.host.energy import POWERCAP, EnergyCounter, Nvml, Rapl, Unreadable
from objectives.host.files import new_file, new_folder, write_json, write_text
from objectives.host.lane import enrolled, exclusive, others, pin, revive

__all__ = [
    "POWERCAP",
    "EnergyCounter",
    "Nvml",
    "Rapl",
    "Unreadable",
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
