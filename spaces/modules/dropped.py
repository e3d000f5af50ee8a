"""A block that is no longer there: what came in goes out."""

from typing import Any

from torch import Tensor, nn

from spaces.modules.module_tables import empty


class Dropped(nn.Module):
    """Stands where a residual or transformer block was; it has no parameters and no submodules.

    Never constructed: `drop` sets the class of an existing module to it, which keeps the other
    attributes that the model around it may ask for.
    """

    returns: int
    """Length of the tuple that the block returned; 0 where it returned a tensor."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first floating-point argument, in a tuple with None if the block did so."""
        hidden = carried(args, kwargs)
        return (hidden, *[None] * (self.returns - 1)) if self.returns else hidden


def carried(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the first floating-point tensor of a call: what a residual stream carries."""
    tensors = (a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
    return next((t for t in tensors if t.is_floating_point()), None)


def drop(block: nn.Module, returns: int = 0) -> None:
    """Make `block` a Dropped in place; its old submodules and tensors are left as they are."""
    empty(block)
    block.__class__ = Dropped
    block.returns = returns  # type: ignore[assignment]
