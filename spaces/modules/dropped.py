"""The module that replaces a dropped block: it returns its input."""

from typing import Any

from torch import Tensor, nn

from spaces.modules.module_tables import empty


class Dropped(nn.Module):
    """Replacement of a residual or transformer block, without parameters and submodules.

    Never constructed: `drop` sets the class of an existing module to it, which keeps the other
    attributes that the surrounding model may read.
    """

    returns: int
    """Length of the tuple that the block returned; 0 if it returned a tensor."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first floating-point argument; in a tuple padded with None if `returns`."""
        hidden = carried(args, kwargs)
        return (hidden, *[None] * (self.returns - 1)) if self.returns else hidden


def carried(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the first floating-point tensor of a call, the hidden state of a residual stream."""
    tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
    return next((t for t in tensors if t.is_floating_point()), None)


def drop(block: nn.Module, returns: int = 0) -> None:
    """Turn `block` into a Dropped in place; its former submodules and tensors are not changed."""
    empty(block)
    block.__class__ = Dropped
    block.returns = returns  # type: ignore[assignment]
