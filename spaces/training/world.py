"""The devices that train together: division of batches, averaged gradients, sharded models."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spaces.devices import on_host
from spaces.task import Task
from spaces.training.batches import Batch, endless, parts
from spaces.training.sync_batchnorm import batches_joined


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """The place of one device among those that train together; the default is a single device."""

    rank: int = 0
    count: int = 1
    sharded: bool = False
    """Whether each device stores only its part of weights, gradients and optimizer state."""

    def feed(
        self, task: Task, batch_size: int, device: torch.device
    ) -> Generator[Batch, None, None]:
        """Yield this device's part of every batch."""
        if self.count == 1:
            return endless(task, batch_size, device)
        return parts(task, batch_size, device, self.rank, self.count)

    def joined(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return a context in which batch normalisation uses the whole batch."""
        return batches_joined(model) if self.count > 1 else contextlib.nullcontext()

    def spread(
        self, loss: nn.Module, device: torch.device, probe: Callable[[], Tensor]
    ) -> nn.Module:
        """Return the module `loss` with the gradients of the whole batch.

        It is replicated (Li et al. 2020, PyTorch Distributed) or sharded block by block (Zhao et
        al. 2023, PyTorch FSDP). `probe` returns the loss of a few samples; replication must know
        whether there are parameters on which it does not depend.
        """
        if self.count == 1:
            return loss
        if self.sharded:
            return self.shard(loss, device)
        weights = [p for p in loss.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(probe(), weights, allow_unused=True)
        return DistributedDataParallel(
            loss,
            device_ids=None if on_host(device) else [device],
            gradient_as_bucket_view=True,
            find_unused_parameters=any(g is None for g in gradients),
        )

    def shard(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return `model`, sharded in place if the devices shard models."""
        if not self.sharded:
            return model
        from spaces.training.fsdp import shard  # imported late: takes two seconds

        return shard(model, device, self.count)

    def reshard(self, model: nn.Module) -> None:
        """Release parameters that a forward pass without a backward pass leaves gathered."""
        if self.sharded:
            from spaces.training.fsdp import reshard

            reshard(model)

    def gathered(self, tensor: Tensor) -> Tensor:
        """Return a possibly sharded tensor as a plain one; every device must call this."""
        if not self.sharded:
            return tensor
        from spaces.training.fsdp import gathered

        return gathered(tensor)

    def part(self, weight: nn.Parameter) -> Tensor:
        """Return this device's part of a weight, a plain tensor in the same memory."""
        if not self.sharded:
            return weight
        from spaces.training.fsdp import part

        return part(weight).detach().requires_grad_()

    def hand_over(self, weights: Sequence[nn.Parameter], parts: Sequence[Tensor]) -> None:
        """Move the gradients of `weights` to the parts of them that this device has."""
        if not self.sharded:
            return
        from spaces.training.fsdp import part

        for weight, own in zip(weights, parts, strict=True):
            own.grad = None if weight.grad is None else part(weight.grad)
            weight.grad = None

    def joint_norm(self, norm: Tensor) -> Tensor:
        """Return the norm of the parts of all devices, given that of this device's parts."""
        if not self.sharded:
            return norm
        square = norm.square()
        dist.all_reduce(square)
        return square.sqrt()

    def mean(self, loss: Tensor, share: float) -> float:
        """Return the loss of the whole batch, given this device's loss and share of the samples."""
        if self.count == 1:
            return loss.item()
        total = (loss.detach() * share).reshape(1)
        dist.all_reduce(total)
        return total.item()

    def largest(self, number: int, device: torch.device) -> int:
        """Return the largest of the numbers that the devices of a group give."""
        if self.count == 1:
            return number
        numbers = torch.tensor([number], device=device)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers.item())

    def weigh(self, loss: Tensor, share: float) -> Tensor:
        """Return the loss to differentiate, scaled since gradients are averaged over devices."""
        return loss if self.count == 1 else loss * (share * self.count)
