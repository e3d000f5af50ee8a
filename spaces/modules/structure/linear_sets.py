"""Find coupled channels of linear layers by gradients; other layers are left to torch-pruning."""

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
_PER_CHANNEL = (BatchNorm, InstanceNorm, nn.GroupNorm, nn.PReLU)
_KNOWN = (*_MIXING, *_PER_CHANNEL)
"""Modules with a parameter for each channel, which can be cut."""


def linear_sets(model: nn.Module, example: Any) -> tuple[list[Coupled], list[nn.Module]]:
    """Return the coupled sets of linear layers, and the layers that have to be traced instead.

    A transformer's hidden width and the outputs are never removed and appear in neither.
    """
    owners = Owners(model)
    sets: list[Coupled] = []
    to_trace: list[nn.Module] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stream in streams(model, example, _cuttable):
            if _hidden(stream, owners) or (stream.ends and not stream.readers):
                continue
            coupled = _coupled(stream, owners)
            if coupled is None:
                to_trace += [writer.module for writer in stream.writers]
            else:
                sets.append(coupled)
    return sets, to_trace


class Owners:
    """The modules that the parameters of a model belong to."""

    def __init__(self, model: nn.Module) -> None:
        self._owners: dict[int, list[tuple[str, nn.Module]]] = {}
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(id(parameter), []).append((name, module))

    def modules(self, parameter: nn.Parameter) -> list[nn.Module]:
        """Return the modules that own a parameter."""
        return [module for _, module in self._owners[id(parameter)]]

    def names(self, parameter: nn.Parameter) -> list[str]:
        """Return the names of the modules that own a parameter."""
        return [name for name, _ in self._owners[id(parameter)]]

    def tied(self, modules: Sequence[nn.Module]) -> str:
        """Return the names of modules that share a parameter, as a reason; "" if none do."""
        for module in modules:
            for parameter in module.parameters(recurse=False):
                if len(names := self.names(parameter)) > 1:
                    return f"{' and '.join(names)} share their weights"
        return ""


def _cuttable(module: nn.Module) -> bool:
    return isinstance(module, LAYERS) or transposed(module)


def _hidden(stream: Stream, owners: Owners) -> bool:
    """Return True for a transformer's hidden state: embedded, or a normalised residual sum.

    A norm of fewer channels than any reader has belongs to the heads, not to the hidden state.
    """
    widths = {_outputs(layer) for layer in stream.writers}
    least = min((inputs(layer.module) for layer in stream.readers), default=0)
    normalised, sums = False, stream.returns
    for parameter in stream.parameters:
        modules = owners.modules(parameter)
        custom = not any(isinstance(m, _PER_CHANNEL) or _torch_owned(m) for m in modules)
        full = parameter.numel() in widths and parameter.numel() >= least
        if parameter.shape[-1:].numel() in widths and _any(modules, nn.Embedding):
            return True
        if full and (_any(modules, *_MIXING) or (parameter.dim() == 1 and custom)):
            normalised = True
        elif _any(modules, nn.MultiheadAttention):  # reads and adds, but is no linear layer
            sums = True
    return normalised and sums


def _torch_owned(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def _outputs(layer: Layer) -> int:
    """Return the number of channels that a layer writes, which convolutions have in dimension 1."""
    convolution = isinstance(layer.module, Convolution)
    return layer.written[0].shape[1 if convolution else -1]


def _any(modules: Sequence[nn.Module], *kinds: type[nn.Module] | UnionType) -> bool:
    return any(isinstance(module, kinds) for module in modules)


def _coupled(stream: Stream, owners: Owners) -> Coupled | None:
    """Return the units of a stream between linear layers; None if it has to be traced."""
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
    cuttable = all(isinstance(m, _KNOWN) for p in large for m in owners.modules(p))
    if cuttable and (large or stream.statistics):
        return None
    if large:
        reason = f"{owners.names(large[0])[0]} has parameters for its channels"
        return Coupled(name=name, ways=(), reason=reason)
    if divisions := ways(stream):
        return Coupled(name=name, ways=divisions)
    return Coupled(name=name, ways=(), reason="its channels do not divide into independent units")


def _over_all(large: Sequence[nn.Parameter], owners: Owners) -> str:
    """Return the name of a norm that scales all channels; "" if not all parameters are of norms.

    A scale of shape (heads, channels of a head) may belong to a norm of each head.
    """
    if not all(p.dim() == 1 and all(map(_norm, owners.modules(p))) for p in large):
        return ""
    return next((owners.names(parameter)[0] for parameter in large), "")


def _norm(module: nn.Module) -> bool:
    """Return True if a module normalises across channels; a custom one by "norm" in its name."""
    custom = not isinstance(module, _KNOWN) and "norm" in type(module).__name__.lower()
    return custom or isinstance(module, _MIXING)
