"""Coupled linear layers, and which layers are left for another search."""

import warnings
from collections.abc import Sequence
from types import UnionType
from typing import Any

from torch import nn

from spaces.modules.layer_types import BatchNorm, Convolution, InstanceNorm
from spaces.modules.structure.families import Coupled
from spaces.modules.structure.flow import LAYERS, Layer, Stream, mixes, streams
from spaces.modules.structure.matrices import inputs, linear, transposed
from spaces.modules.structure.units import ways

_MIXING = (nn.LayerNorm, nn.RMSNorm)
_KNOWN = (*_MIXING, BatchNorm, InstanceNorm, nn.GroupNorm, nn.PReLU)
"""Modules with a parameter for each channel, which can be cut."""


def linear_sets(model: nn.Module, example: Any) -> tuple[list[Coupled], list[nn.Module]]:
    """Return what linear layers write and others read, and the layers for another search.

    Nothing is said of a transformer's hidden width and of outputs: they stay.
    """
    owners = Owners(model)
    found: list[Coupled] = []
    left: list[nn.Module] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stream in streams(model, example, _cuttable):
            if _hidden(stream, owners) or (stream.ends and not stream.readers):
                continue
            coupled = _coupled(stream, owners)
            if coupled is None:
                left += [writer.module for writer in stream.writers]
            else:
                found.append(coupled)
    return found, left


class Owners:
    """The modules that the parameters of a model belong to."""

    def __init__(self, model: nn.Module) -> None:
        self._of: dict[int, list[tuple[str, nn.Module]]] = {}
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                self._of.setdefault(id(parameter), []).append((name, module))

    def kinds(self, parameter: nn.Parameter) -> list[nn.Module]:
        """Return the modules that own a parameter."""
        return [module for _, module in self._of[id(parameter)]]

    def names(self, parameter: nn.Parameter) -> list[str]:
        """Return the names of the modules that own a parameter."""
        return [name for name, _ in self._of[id(parameter)]]

    def tied(self, modules: Sequence[nn.Module]) -> str:
        """Return which of the modules share a parameter with another, as a reason; else nothing."""
        for module in modules:
            for parameter in module.parameters(recurse=False):
                if len(names := self.names(parameter)) > 1:
                    return f"{' and '.join(names)} share their weights"
        return ""


def _cuttable(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) or transposed(module)


def _hidden(stream: Stream, owners: Owners) -> bool:
    """Whether a stream is a transformer's hidden state: embedded, or normalised and a residual sum.

    A norm of fewer channels than any layer reads is not the hidden state's, but one of each head's.
    """
    widths = {_outputs(layer) for layer in stream.writers}
    least = min((inputs(layer.module) for layer in stream.readers), default=0)
    normalised, sums = False, stream.returns
    for parameter in stream.parameters:
        kinds = owners.kinds(parameter)
        unknown = not any(type(m).__module__.startswith("torch.nn.") for m in kinds)
        whole = parameter.numel() in widths and parameter.numel() >= least
        if parameter.shape[-1:].numel() in widths and _any(kinds, nn.Embedding):
            return True
        if whole and (_any(kinds, *_MIXING) or (parameter.dim() == 1 and unknown)):
            normalised = True
        elif _any(kinds, nn.MultiheadAttention):  # it reads and adds without a layer of its own
            sums = True
    return normalised and sums


def _outputs(layer: Layer) -> int:
    """Return how many channels a layer writes: those of convolutions are dimension 1."""
    convolution = isinstance(layer.module, Convolution)
    return layer.written[0].shape[1 if convolution else -1]


def _any(modules: Sequence[nn.Module], *kinds: type[nn.Module] | UnionType) -> bool:
    return any(isinstance(module, kinds) for module in modules)


def _coupled(stream: Stream, owners: Owners) -> Coupled | None:
    """Return the units of a stream between linear layers; None where others have to search."""
    layers = [*stream.writers, *stream.readers]
    plain = all(linear(x.module) for x in layers)
    if stream.ends or not stream.readers or not plain:
        return None
    name = stream.writers[0].name
    if reason := owners.tied([layer.module for layer in layers]):
        return Coupled(name=name, ways=(), reason=reason)
    width = min(inputs(reader.module) for reader in stream.readers)
    large = [p for p in stream.parameters if p.numel() >= width]
    if (norm := _over_all(large, owners)) and mixes(stream):
        return Coupled(name=name, ways=(), reason=f"{norm} normalises over all heads together")
    known = all(isinstance(m, _KNOWN) for p in large for m in owners.kinds(p))
    if known and (large or stream.statistics):
        return None
    if large:
        reason = f"{owners.names(large[0])[0]} has parameters for its channels"
        return Coupled(name=name, ways=(), reason=reason)
    if found := ways(stream):
        return Coupled(name=name, ways=found)
    return Coupled(name=name, ways=(), reason="its channels do not divide into independent units")


def _over_all(large: Sequence[nn.Parameter], owners: Owners) -> str:
    """Return the name of a norm with a scale for all channels; nothing if there is more than norms.

    A scale of (heads, channels of a head) may be that of a norm of each head.
    """
    if not all(p.dim() == 1 and all(map(_norm, owners.kinds(p))) for p in large):
        return ""
    return next((owners.names(parameter)[0] for parameter in large), "")


def _norm(module: nn.Module) -> bool:
    """Whether a module normalises across channels: one of torch, or the user's own by its name."""
    own = not isinstance(module, _KNOWN) and "norm" in type(module).__name__.lower()
    return own or isinstance(module, _MIXING)
