"""The catalogue of devices: `device = "NAME"` of a target is the file NAME.py.

Names are those of PyTorch's device types. All entries are imported to see what a machine has, so
they import libraries beyond PyTorch only in the methods that need them.
"""

import abc
import contextlib
import pkgutil
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from spaces.catalogue import entry_of

__all__ = ["HOST", "Device", "Timer", "all_devices", "device_names", "device_of", "on_host"]

HOST = torch.device("cpu")
"""Where tasks yield batches, and where models lie before and after the work on them."""

Timer = Callable[[Callable[[], object]], float]
"""Calls a function and returns the seconds that it took."""


class Device(abc.ABC):
    """A kind of device. Methods are about the current one of this process unless they say more."""

    accelerator: ClassVar[str | None]
    """What one is called, as Ray counts it: "GPU", "TPU"; None where a device is cores of the
    host, which are pinned, shared with all that runs there, and counted by threads."""
    backend: ClassVar[str]
    """The backend of process groups for tensors on it."""
    visible: ClassVar[str | None] = None
    """The environment variable that says which of them a process sees."""
    spread: ClassVar[float]
    """Usual standard deviation between processes that time one artifact, as a share of the time."""
    shortest: ClassVar[float]
    """Seconds that a batch must take to be split: processes need as long to agree."""
    step_flops: ClassVar[float]
    """Floating-point operations of a training step at most."""

    @property
    def name(self) -> str:
        """PyTorch's name of its type, which is also the entry's."""
        return type(self).__name__.lower()

    @abc.abstractmethod
    def lacks(self) -> str | None:
        """Return in one sentence why PyTorch cannot compute on one here, None if it can."""

    def available(self) -> bool:
        """Whether PyTorch can compute on one here."""
        return self.lacks() is None

    @abc.abstractmethod
    def count(self) -> int:
        """Return how many this process may use: accelerators, or cores of the host."""

    def product_names(self) -> list[str]:
        """Return the product name of each accelerator that this process sees."""
        return []

    def conditions(self) -> dict[str, Any]:
        """Return, as JSON, what an accelerator is and does now: name, clocks, who else uses it."""
        return {}

    @abc.abstractmethod
    def initialized(self) -> bool:
        """Whether this process has started the device in a way that does not survive a fork."""

    @abc.abstractmethod
    def select(self, index: int) -> torch.device:
        """Make the device of an index, from 0, the current one of this process and return it."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait until all work that was started is done."""

    def timer(self) -> Timer:
        """Return a timer of work on the device, by its own clock where it has one."""

        def seconds(run: Callable[[], object]) -> float:
            start = time.perf_counter()
            run()
            self.synchronize()
            return time.perf_counter() - start

        return seconds

    @abc.abstractmethod
    def memory(self) -> tuple[int, int]:
        """Return the bytes of its memory that are free, and all of them."""

    @abc.abstractmethod
    def peak_memory(self, work: Callable[[], object]) -> int | None:
        """Do `work` and return the most bytes allocated on the device meanwhile.

        None, with nothing done, where that is the host's memory: processes are measured then.
        """

    def empty_cache(self) -> None:  # noqa: B027
        """Give memory that PyTorch keeps for later tensors back to the device."""

    def exact(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which convolutions compute in whole float32, always the same way."""
        return contextlib.nullcontext()

    def fork_rng(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that restores the random generators, the host's among them.

        Idle devices have nothing to restore: asking one for its generator would start it, and a
        process that has started one can often not be forked any more.
        """
        if not self.initialized():
            return torch.random.fork_rng((), device_type=HOST.type)
        return torch.random.fork_rng(range(self.count()), device_type=self.name)

    @abc.abstractmethod
    def trains_in(self, dtype: str) -> bool:
        """Whether it has instructions for a type ("bfloat16", "float8") that training can use."""

    @abc.abstractmethod
    def native_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 matrices natively, so that autocast pays."""


def device_of(device: str | torch.device) -> Device:
    """Return the kind of a device that is given as PyTorch does: "cuda", or "cuda:1" of several.

    Raises ValueError with the known names where the catalogue has no such kind.
    """
    name = str(device).partition(":")[0]
    if name not in (known := device_names()):
        raise ValueError(f"there is no device {name!r}; use one of {', '.join(known)}")
    return entry_of(__name__, name, Device)()


def device_names() -> list[str]:
    """Return the names of the catalogue without importing any entry."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def all_devices() -> list[Device]:
    """Return all kinds of the catalogue, whether this machine has such devices or not."""
    return [device_of(name) for name in device_names()]


def on_host(device: str | torch.device) -> bool:
    """Whether tensors on a device lie in the host's memory."""
    return torch.device(device).type == HOST.type
