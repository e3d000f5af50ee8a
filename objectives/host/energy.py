"""Energy counters: joules of processor packages (RAPL) and of NVIDIA GPUs (NVML)."""

import abc
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from spaces import said

POWERCAP = Path("/sys/class/powercap")
"""Folder of Linux in which RAPL's counters are files."""


class Unreadable(Exception):
    """Energy cannot be read on this machine; the message is the reason, one sentence."""


class EnergyCounter(abc.ABC):
    """A counter of joules, which only ever rises between two readings."""

    window: ClassVar[float]
    """Seconds between two readings that many updates of the counter fit in."""

    @abc.abstractmethod
    def read(self) -> Mapping[str, float]:
        """Return the joules so far of each part, by its name; raises Unreadable."""

    @abc.abstractmethod
    def ranges(self) -> Mapping[str, float]:
        """Return the joules at which the counter of a part starts again at 0, where it does."""

    def joules(self, before: Mapping[str, float], after: Mapping[str, float]) -> float:
        """Return the joules between two readings, of which a part's counter may have restarted."""
        ranges = self.ranges()
        spent = {name: after[name] - before[name] for name in before}
        return sum(j if j >= 0 else j + ranges.get(name, 0.0) for name, j in spent.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rapl(EnergyCounter):
    """The running average power limit's counters of all processor packages.

    Memory outside of the packages and the rest of the machine are not in it. Source: Khan et al.
    2018, RAPL in action: experiences in using RAPL for power measurements.
    """

    folder: Path = POWERCAP
    window = 0.05  # updated every millisecond

    def read(self) -> Mapping[str, float]:
        """Return the joules of each package; raises Unreadable."""
        return {zone.name: _microjoules(zone / "energy_uj") for zone in self._packages()}

    def ranges(self) -> Mapping[str, float]:
        """Return the joules at which each package's counter restarts."""
        return {zone.name: _microjoules(zone / "max_energy_range_uj") for zone in self._packages()}

    def _packages(self) -> list[Path]:
        """Return the folders of the packages, without those of their parts and of the platform."""
        zones = sorted(self.folder.glob("intel-rapl:*"))
        packages = [z for z in zones if _text(z / "name").startswith("package")]
        if not packages:
            raise Unreadable(
                f"this machine shows no energy counter of its processor: {self.folder} has no "
                "package of RAPL, as in most virtual machines and containers"
            )
        return packages


def _microjoules(file: Path) -> float:
    """Return the joules in a file of microjoules; raises Unreadable."""
    return 1e-6 * int(_text(file))


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except PermissionError as error:
        raise Unreadable(
            f"the energy counter {file} can be read by root alone; allow it with sudo chmod a+r"
        ) from error
    except OSError as error:
        raise Unreadable(f"the energy counter {file} cannot be read: {said(error)}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nvml(EnergyCounter):
    """The counters of whole GPU boards, memory included, since the driver was loaded."""

    count: int = 1
    """Number of GPUs, from the first one that this process sees."""
    window = 0.2  # updated every 20 to 100 milliseconds

    def read(self) -> Mapping[str, float]:
        """Return the joules of each GPU; raises Unreadable."""
        try:
            import pynvml
        except ModuleNotFoundError:
            raise Unreadable(
                "the energy of a GPU is read through nvidia-ml-py, which is not installed: "
                "pip install 'paretune[energy]'"
            ) from None
        try:
            pynvml.nvmlInit()
            return {
                name: 1e-3 * pynvml.nvmlDeviceGetTotalEnergyConsumption(_handle(pynvml, name))
                for name in _visible(self.count)
            }
        except pynvml.NVMLError as error:
            raise Unreadable(f"this GPU shows no energy counter: {said(error)}") from error

    def ranges(self) -> Mapping[str, float]:
        """Return an empty mapping: 64 bits of millijoules do not run out."""
        return {}


def _visible(count: int) -> list[str]:
    """Return indices or UUIDs of the first GPUs that CUDA shows to this process."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[:count] if listed else [str(index) for index in range(count)]


def _handle(nvml: Any, name: str) -> Any:
    if name.strip().isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    return nvml.nvmlDeviceGetHandleByUUID(name.strip())
