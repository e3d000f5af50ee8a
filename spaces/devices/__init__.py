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
"""Device of the batches that tasks yield, and of models before and after they are processed."""

Timer = Callable[[Callable[[], object]], float]
"""Calls a function and returns the seconds that it took."""


class Device(abc.ABC):
    """A kind of device. Methods concern the process's current device unless stated otherwise."""

    accelerator: ClassVar[str | None]
    """The resource that Ray counts: "GPU", "TPU". None if a device is a set of the host's cores,
    which are pinned, shared with all other programs, and counted by threads."""
    backend: ClassVar[str]
    """Backend of process groups for tensors on the device."""
    visible: ClassVar[str | None] = None
    """Environment variable that selects the devices that a process sees."""
    spread: ClassVar[float]
    """Usual standard deviation between processes that time one artifact, as a share of the time."""
    shortest: ClassVar[float]
    """Seconds that a batch must take to be split: coordinating the processes takes as long."""
    step_flops: ClassVar[float]
    """Largest number of floating-point operations of a training step."""

    @property
    def name(self) -> str:
        """PyTorch's name of the device type, which is also the entry's name."""
        return type(self).__name__.lower()

    @abc.abstractmethod
    def lacks(self) -> str | None:
        """Return the reason why PyTorch cannot use such a device here, one sentence, or None."""

    def available(self) -> bool:
        """Return True if PyTorch can use such a device here."""
        return self.lacks() is None

    @abc.abstractmethod
    def count(self) -> int:
        """Return the number of accelerators, or of host cores, that this process may use."""

    def product_names(self) -> list[str]:
        """Return the product name of each accelerator that this process sees."""
        return []

    def conditions(self) -> dict[str, Any]:
        """Return the accelerator's name and present use as JSON: clock, load, other processes."""
        return {}

    @abc.abstractmethod
    def initialized(self) -> bool:
        """Return True if this process has started the device in a way that breaks forks."""

    @abc.abstractmethod
    def select(self, index: int) -> torch.device:
        """Make device `index`, counted from 0, the current one of this process and return it."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait until all work that was started is done."""

    def timer(self) -> Timer:
        """Return a timer of work on the device, by the device's clock if it has one."""

        def seconds(run: Callable[[], object]) -> float:
            start = time.perf_counter()
            run()
            self.synchronize()
            return time.perf_counter() - start

        return seconds

    @abc.abstractmethod
    def memory(self) -> tuple[int, int]:
        """Return the free and the total bytes of the device's memory."""

    @abc.abstractmethod
    def peak_memory(self, work: Callable[[], object]) -> int | None:
        """Run `work` and return the peak number of bytes allocated on the device meanwhile.

        Returns None, without running `work`, if the device uses the host's memory: the memory of
        the process is measured then.
        """

    def empty_cache(self) -> None:  # noqa: B027
        """Return memory that PyTorch caches for later tensors to the device."""

    def exact(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which convolutions are deterministic and compute in full float32."""
        return contextlib.nullcontext()

    def tf32(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which every product of float32 numbers may round them to TF32.

        A device without such products computes as ever.
        """
        return contextlib.nullcontext()

    def fork_rng(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that restores the random generators, including the host's.

        A device that was not started has nothing to restore: asking it for its generator would
        start it, and a process that has started a device can often not be forked any more.
        """
        if not self.initialized():
            return torch.random.fork_rng((), device_type=HOST.type)
        return torch.random.fork_rng(range(self.count()), device_type=self.name)

    @abc.abstractmethod
    def trains_in(self, dtype: str) -> bool:
        """Return True if it has instructions for `dtype` ("bfloat16", ...) usable in training."""

    @abc.abstractmethod
    def native_bfloat16(self) -> bool:
        """Return True if it multiplies bfloat16 matrices natively, so that autocast is faster."""


def device_of(device: str | torch.device) -> Device:
    """Return the kind of a device given in PyTorch's notation: "cuda", or "cuda:1" of several.

    Raises ValueError, which lists the catalogue's names, if there is no such kind.
    """
    name = str(device).partition(":")[0]
    if name not in (names := device_names()):
        raise ValueError(f"there is no device {name!r}; use one of {', '.join(names)}")
    return entry_of(__name__, name, Device)()


def device_names() -> list[str]:
    """Return the names of the catalogue's entries without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def all_devices() -> list[Device]:
    """Return all kinds of the catalogue, including those that this machine lacks."""
    return [device_of(name) for name in device_names()]


def on_host(device: str | torch.device) -> bool:
    """Return True if tensors on a device lie in the host's memory."""
    return torch.device(device).type == HOST.type
