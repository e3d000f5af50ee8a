"""Cut a model into consecutive stages of about equal cost."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from objectives.exporting import torch_modules
from spaces import Infeasible, untraced

_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
"""Errors of torch.export on models that it cannot process."""
_SLACK = 0.15
"""Share of a stage by which a cut may be further from its ideal place, to send fewer bytes."""
_CHECK = torch.ops.aten._assert_tensor_metadata.default
"""Check that torch.export adds for a converted tensor; no operation uses its result."""
_ATTENTION = "scaled_dot_product_attention"
_PRODUCTS = frozenset({"matmul", "bmm", "mm", "baddbmm", "einsum"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parcel:
    """A tensor that one stage sends to the next."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One stage: a module that maps incoming tensors to outgoing ones."""

    module: fx.GraphModule
    incoming: tuple[Parcel, ...]
    outgoing: tuple[Parcel, ...]
    share: float
    """Share of the cost of all stages, 0..1."""


def prepare() -> None:
    """Import the libraries that PyTorch needs to export a model."""
    _exported(torch_modules.TensorModule(nn.Linear(1, 1), "tensor"), [torch.zeros(1, 1)])


def cut(
    model: nn.Module,
    structure: Any,
    tensors: Sequence[Tensor],
    rank: int,
    count: int,
    device: torch.device,
) -> Stage:
    """Return stage `rank` of `count` on `device`, with weights of its own.

    The cuts are the same at every call. `structure` and `tensors` are the inputs of a full batch.
    Raises Infeasible if the model cannot be exported or has too few operations.
    """
    program = _exported(torch_modules.TensorModule(model, structure).eval(), tensors)
    nodes = [n for n in program.graph.nodes if n.op == "call_function" and n.target is not _CHECK]
    if any(n.op in ("get_attr", "call_module") for n in program.graph.nodes):
        raise Infeasible(
            "the model has parts that torch.export keeps whole; no stage can hold them"
        )
    costs = _costs(program, nodes)
    cuts = _cuts(program, nodes, costs, count)
    stage = _stage(program, nodes, [0, *cuts, len(nodes)], rank, costs)
    for node in stage.module.graph.nodes:
        if "device" in node.kwargs:  # the operation creates a tensor
            node.kwargs = {**node.kwargs, "device": device}
    stage.module.recompile()
    stage.module.to(device)
    return stage


def _exported(module: nn.Module, tensors: Sequence[Tensor]) -> ExportedProgram:
    try:
        with torch.no_grad():
            program = torch.export.export(module, tuple(tensors), strict=False)
            if any(_mutates(n) for n in program.graph.nodes):
                program = program.run_decompositions({})
    except _FAILURES as error:
        raise Infeasible(f"the model cannot be cut into stages: {untraced(error)}") from error
    return program


def _mutates(node: fx.Node) -> bool:
    # PyTorch has no public names for operators and their schemas
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _weights(program: ExportedProgram) -> dict[str, Tensor]:
    """Return parameters, buffers and constants by the names of their placeholders."""
    signature = program.graph_signature
    state: dict[str, Any] = {**program.state_dict, **program.constants}
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {name: state[target] for name, target in named.items()}


def _costs(program: ExportedProgram, nodes: Sequence[fx.Node]) -> list[float]:
    """Return each operation's share of the multiplications plus its share of the weights' bytes."""
    weights = _weights(program)
    seen: set[str] = set()
    work, size = [], []
    for node in nodes:
        names = [i.name for i in node.all_input_nodes if i.name in weights]
        size.append(float(sum(weights[name].nbytes for name in names if name not in seen)))
        seen |= set(names)
        work.append(_multiplications(node, [weights[name] for name in names]))
    return [
        w / (sum(work) or 1.0) + s / (sum(size) or 1.0) for w, s in zip(work, size, strict=True)
    ]


def _multiplications(node: fx.Node, weights: Sequence[Tensor]) -> float:
    """Estimate the multiplications of an operation; elementwise ones count one per output."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return 0.0
    name = str(node.target).split(".")[-2] if "." in str(node.target) else str(node.target)
    matrices = [w for w in weights if w.dim() > 1]
    if matrices and name != "embedding":
        return float(value.numel() * matrices[0].numel() / matrices[0].shape[0])
    first = next((i.meta.get("val") for i in node.all_input_nodes), None)
    if name == _ATTENTION and isinstance(first, Tensor):
        keys = node.all_input_nodes[1].meta["val"]
        return float(2 * first.numel() * keys.shape[-2])
    if name in _PRODUCTS and isinstance(first, Tensor):
        return float(value.numel() * first.shape[-1])
    return float(value.numel())


def _cuts(
    program: ExportedProgram, nodes: Sequence[fx.Node], costs: Sequence[float], count: int
) -> list[int]:
    """Return the indices of the operations with which stages 1 to `count` - 1 begin.

    Stages have nearly equal costs; of close cuts, the one that sends the fewest bytes is chosen.
    Raises Infeasible if the model has too few operations.
    """
    total, sums = sum(costs), [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    crossing = [_crossing(program, nodes, i) for i in range(len(nodes) + 1)]
    cuts: list[int] = []
    for stage in range(1, count):
        ideal = total * stage / count
        start = cuts[-1] if cuts else 0
        possible = [i for i in range(start + 1, len(nodes)) if crossing[i] is not None]
        if not possible:
            raise Infeasible(
                f"the model has {len(nodes)} operations, too few that can be parted into {count} "
                "stages"
            )
        distances = {i: abs(sums[i] - ideal) / (total / count) for i in possible}
        nearest = min(distances.values())
        close = [i for i in possible if distances[i] <= nearest + _SLACK]
        cuts.append(min(close, key=lambda i: (_bytes(crossing[i]), distances[i])))
    return cuts


def _bytes(nodes: Sequence[fx.Node] | None) -> float:
    return float(sum(n.meta["val"].nbytes for n in nodes)) if nodes is not None else math.inf


def _crossing(
    program: ExportedProgram, nodes: Sequence[fx.Node], position: int
) -> list[fx.Node] | None:
    """Return the values that are computed before operation `position` and used from it on.

    None if one of them is no tensor. Inputs count as computed first, outputs as used last.
    """
    order = {node: i for i, node in enumerate(nodes)}
    signature = program.graph_signature
    inputs = [n for n in program.graph.nodes if n.name in signature.user_inputs]
    crossing = []
    for node in (*inputs, *nodes[:position]):
        if any(order.get(user, len(nodes)) >= position for user in node.users):
            crossing.append(node)
    if not all(isinstance(n.meta.get("val"), Tensor) for n in crossing):
        return None
    return crossing


def _stage(
    program: ExportedProgram,
    nodes: Sequence[fx.Node],
    bounds: Sequence[int],
    rank: int,
    costs: Sequence[float],
) -> Stage:
    """Build the module of a stage from its operations."""
    first, end = bounds[rank], bounds[rank + 1]
    last = rank == len(bounds) - 2
    incoming = _crossing(program, nodes, first) or []
    if rank == 0:
        user = program.graph_signature.user_inputs
        incoming = [n for n in program.graph.nodes if n.name in user]
    outgoing = list(_results(program)) if last else _crossing(program, nodes, end) or []
    weights = _weights(program)
    root, graph = nn.Module(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {n: graph.placeholder(n.name) for n in incoming}
    within = set(nodes[first:end])
    for node in program.graph.nodes:
        used = not within.isdisjoint(node.users)
        if node.name in weights and (used or node in outgoing):
            # Copied, as a view would keep the whole file in memory.
            root.register_buffer(node.name, weights[node.name].detach().clone())
            copies[node] = graph.get_attr(node.name)
    for node in nodes[first:end]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[n] for n in outgoing))
    return Stage(
        module=fx.GraphModule(root, graph),
        incoming=tuple(map(_parcel, incoming)),
        outgoing=tuple(map(_parcel, outgoing)),
        share=sum(costs[first:end]) / (sum(costs) or 1.0),
    )


def _results(program: ExportedProgram) -> Iterator[fx.Node]:
    output = next(n for n in program.graph.nodes if n.op == "output")
    yield from (n for n in output.args[0] if isinstance(n, fx.Node))


def _parcel(node: fx.Node) -> Parcel:
    value = node.meta["val"]
    return Parcel(name=node.name, shape=tuple(value.shape), dtype=value.dtype)
