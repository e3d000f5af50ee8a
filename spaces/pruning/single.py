"""Choose single weights to remove by their magnitude, and keep zeros during training."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.constraint import Constraint, Project
from spaces.modules import Convolution, own_parameters
from spaces.modules.structure import matrices
from spaces.task import Task

FLOOR = 0.02
"""Smallest share of its weights that a layer keeps if all layers compete."""
_LAYERS = nn.Linear | Convolution


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of convolution and linear layers by name, tied ones once.

    Transformers' Conv1D is a linear layer. Biases, normalisations and embeddings are left out, and
    so are matrices that also serve as embeddings: they are few, or looked up row by row rather
    than multiplied.
    """
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    weights: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        for key in _keys(module):
            weight = own_parameters(module).get(key)
            if weight is None or id(weight) in looked_up | seen or weight.dim() < 2:
                continue
            seen.add(id(weight))
            weights[f"{name}.{key}" if name else key] = weight
    return weights


def _keys(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ("weight",) if isinstance(module, _LAYERS) or matrices.transposed(module) else ()


def input_axis(model: nn.Module, name: str) -> int:
    """Return the dimension of the weight `name` that belongs to its layer's inputs."""
    return 0 if matrices.transposed(model.get_submodule(name.rpartition(".")[0])) else 1


def magnitudes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the absolute values as scores: small weights go first (Han et al. 2015, section 3)."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def largest(scores: Mapping[str, Tensor], sparsity: float, scope: str) -> dict[str, Tensor]:
    """Return masks of the largest scores by name: of each layer if `scope` is "layer", else of all.

    If all layers compete, each keeps at least FLOOR of its weights: a layer without any passes
    nothing on. `sparsity` is the share of weights to remove, 0..1.
    """
    if scope == "layer":
        return {n: _largest(s, round(s.numel() * (1 - sparsity))) for n, s in scores.items()}
    safe = {n: _largest(s, math.ceil(s.numel() * FLOOR)) for n, s in scores.items()}
    flat = torch.cat([s.masked_fill(safe[n], math.inf).flatten() for n, s in scores.items()])
    mask = _largest(flat, round(len(flat) * (1 - sparsity)))
    parts = torch.split(mask, [s.numel() for s in scores.values()])
    return {n: p.view_as(s) | safe[n] for (n, s), p in zip(scores.items(), parts, strict=True)}


def two_of_four(scores: Mapping[str, Tensor], inputs: Mapping[str, int]) -> dict[str, Tensor]:
    """Return masks of the two largest of every four consecutive inputs of an output, by name.

    `inputs` is the dimension of a weight's inputs. Sparse tensor cores read this pattern (Mishra et
    al. 2021, Accelerating sparse deep neural networks, section 3). Layers whose number of inputs is
    not divisible by four keep all weights.
    """
    return {name: _two_of_four(s, inputs[name]) for name, s in scores.items()}


def _two_of_four(scores: Tensor, inputs: int) -> Tensor:
    if scores.shape[inputs] % 4:
        return torch.ones_like(scores, dtype=torch.bool)
    last = scores.movedim(inputs, -1)
    fours = last.reshape(*last.shape[:-1], -1, 4)
    best = torch.sort(fours, dim=-1, descending=True, stable=True).indices[..., :2]
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter(-1, best, True)
    return mask.flatten(-2).movedim(-1, inputs).contiguous()


def _largest(scores: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` largest scores; of equal ones, the first."""
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[order[:count]] = True
    return mask.view_as(scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeepZeros(Constraint):
    """Weights of convolution and linear layers that are zero stay zero."""

    @contextlib.contextmanager
    def hold(self, model: nn.Module, task: Task) -> Iterator[Project]:
        """Set gradients of the zeros to zero, so that momentum and clipping ignore them, too."""
        del task
        masks = [(w, w.detach() == 0) for w in prunable(model).values()]
        masks = [(weight, zeros) for weight, zeros in masks if bool(zeros.any())]
        hooks: list[RemovableHandle] = [
            weight.register_hook(_without(zeros))  # type: ignore[no-untyped-call]
            for weight, zeros in masks
            if weight.requires_grad
        ]

        def project() -> None:
            with torch.no_grad():
                for weight, zeros in masks:
                    weight.masked_fill_(zeros, 0)  # a product would leave negative zeros

        try:
            yield project
        finally:
            project()
            for hook in hooks:
                hook.remove()


def _without(zeros: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.masked_fill(zeros, 0)
