"""Heads that share keys and values, rotary embeddings, transposed weights, sizes in the code."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from _sentences import OwnNorm, Sentences
from torch import Tensor, nn
from torch.nn import functional as F

from objectives import Export, Target
from objectives.artifacts import signature_of
from objectives.exporting.onnx_graphs import exported
from spaces import Encoding, Left
from spaces.modules.structure.matrices import weight
from spaces.modules.surgery import achieved, describe, rebuild, tensors
from spaces.techniques.prune.channels import Channels

WIDTH, LENGTH, QUERIES = 32, 8, 4


pytestmark = pytest.mark.usefixtures("one_thread")


class Attention(nn.Module):
    """Four heads ask `shared` heads of keys and values; one layer writes all or three do."""

    def __init__(
        self,
        shared: int,
        fused: bool,
        rotary: bool = False,
        norm: Callable[[int], nn.Module] = lambda length: nn.Identity(),
    ) -> None:
        super().__init__()
        self.q_norm, self.k_norm = norm(LENGTH), norm(LENGTH)
        self.num_heads, self.num_key_value_heads, self.head_dim = QUERIES, shared, LENGTH
        self.num_key_value_groups = QUERIES // shared
        self.q_size, self.kv_size = WIDTH, shared * LENGTH
        self.fused, self.rotary = fused, rotary
        if fused:
            self.qkv = nn.Linear(WIDTH, self.q_size + 2 * self.kv_size)
        else:
            self.q, self.k, self.v = (
                nn.Linear(WIDTH, n, bias=False) for n in (WIDTH, self.kv_size, self.kv_size)
            )
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            parts = self.qkv(x).split((self.q_size, self.kv_size, self.kv_size), -1)
        else:
            parts = (self.q(x), self.k(x), self.v(x))
        counts = (self.num_heads, self.num_key_value_heads, self.num_key_value_heads)
        q, k, v = (
            p.view(*x.shape[:2], n, self.head_dim).transpose(1, 2)
            for p, n in zip(parts, counts, strict=True)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary:
            q, k = _rotated(q), _rotated(k)
        k, v = (t.repeat_interleave(self.num_key_value_groups, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.o(y.reshape(*x.shape[:2], self.q_size))


def _rotated(x: Tensor) -> Tensor:
    """Halves of the channels change places, as in rotary position embeddings."""
    first, second = x.chunk(2, -1)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


class Sized(nn.Module):
    """As in nanoGPT: the code takes a head's length from the width of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.n_head, self.n_embd = QUERIES, WIDTH
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = (
            p.view(b, t, self.n_head, c // self.n_head).transpose(1, 2)
            for p in self.c_attn(x).split(self.n_embd, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))


class Network(nn.Module):
    """One attention and one gated perceptron, each added to the hidden state."""

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = attention()
        self.gate, self.up = (nn.Linear(WIDTH, 48, bias=False) for _ in range(2))
        self.down = nn.Linear(48, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.attention(self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.head(x[:, -1])


class Last(nn.Module):
    """A classifier of what a transformer makes of the last token."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(input_ids=ids).last_hidden_state[:, -1])


def llama(shared: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=QUERIES,
        num_key_value_heads=shared,
        intermediate_size=48,
        max_position_embeddings=16,
        use_cache=False,
    )
    return Last(transformers.LlamaModel(config))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50,
        n_embd=WIDTH,
        n_layer=2,
        n_head=QUERIES,
        n_inner=48,
        n_positions=16,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Last(transformers.GPT2Model(config))


def grouped(shared: int, fused: bool, rotary: bool = False, **options: Any) -> Sentences:
    return Sentences(lambda: Network(lambda: Attention(shared, fused, rotary, **options)))


# what reads heads, with how many channels a unit has there, and what reads neurons
OWN = ({"attention.o": 16}, ("down",))
LAYERS = range(2)
CASES = {
    "separate": (grouped(2, False), *OWN),
    "fused": (grouped(2, True), *OWN),
    "rotary": (grouped(2, False, True), *OWN),
    "one of keys": (grouped(1, False), {"attention.o": 8}, ("down",)),
    "one of keys, fused": (grouped(1, True), {"attention.o": 8}, ("down",)),
    "normalised": (grouped(2, False, norm=nn.RMSNorm), *OWN),
    "normalised, rotary": (grouped(2, False, True, norm=nn.LayerNorm), *OWN),
    "normalised, fused": (grouped(2, True, norm=nn.LayerNorm), *OWN),
    "normalised, one of keys": (grouped(1, False, norm=nn.RMSNorm), {"attention.o": 8}, ("down",)),
    "own norm, one of keys": (grouped(1, False, norm=OwnNorm), {"attention.o": 8}, ("down",)),
    "llama": (
        Sentences(lambda: llama(4)),
        {f"body.layers.{i}.self_attn.o_proj": 8 for i in LAYERS},
        tuple(f"body.layers.{i}.mlp.down_proj" for i in LAYERS),
    ),
    "llama, grouped": (
        Sentences(lambda: llama(2)),
        {f"body.layers.{i}.self_attn.o_proj": 16 for i in LAYERS},
        tuple(f"body.layers.{i}.mlp.down_proj" for i in LAYERS),
    ),
    "gpt2": (
        Sentences(gpt2),
        {f"body.h.{i}.attn.c_proj": 8 for i in LAYERS},
        tuple(f"body.h.{i}.mlp.c_proj" for i in LAYERS),
    ),
}
everywhere = pytest.mark.parametrize("name", CASES)


def idle(name: str) -> Sentences:
    """Return a task whose model does not read every second unit, nor half of the neurons."""
    task, heads, neurons = CASES[name]

    def build() -> nn.Module:
        model = task.build()
        with torch.no_grad():
            for reader, unit in heads.items():
                read = weight(model.get_submodule(reader))
                read.view(*read.shape[:-1], -1, 2, unit)[..., 1, :] = 0
            for reader in neurons:
                weight(model.get_submodule(reader))[:, 1::2] = 0
        return model

    return Sentences(build)


def prune(task: Sentences, **settings: Any) -> nn.Module:
    technique = Channels(ratio=0.5, **{"widths": "uniform", **settings})
    return technique.apply(task.model(), task)


def outputs(model: nn.Module) -> Tensor:
    ids = torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        found: Tensor = model.eval()(ids)
    return found


@everywhere
def test_the_units_that_are_not_read_go_and_the_outputs_stay(name: str) -> None:
    task = idle(name)
    reference, pruned = task.model(), prune(task)
    assert torch.allclose(outputs(pruned), outputs(reference), atol=1e-4)
    _, heads, neurons = CASES[name]
    for reader in (*heads, *neurons):
        whole, left = (weight(m.get_submodule(reader)) for m in (reference, pruned))
        assert tuple(left.shape) == (whole.shape[0], whole.shape[1] // 2), reader
    assert achieved(reference, pruned) > 0.2


@everywhere
def test_the_pruned_model_travels(name: str) -> None:
    task = CASES[name][0]
    reference, pruned = task.model(), prune(task)
    edits = describe(reference, pruned), tensors(reference, pruned)
    again = rebuild(copy.deepcopy(reference), *edits)
    assert torch.equal(outputs(again), outputs(pruned))


@pytest.mark.slow
@everywhere
def test_the_pruned_model_runs_in_onnxruntime_where_the_whole_one_does(
    name: str, tmp_path: Path
) -> None:
    task = CASES[name][0]
    reference = task.model()
    pruned = prune(task)
    for model in (reference, pruned):
        folder = tmp_path / str(model is pruned)
        folder.mkdir()
        with exported(asked(model, reference, task, folder)) as path:
            assert path.stat().st_size > 0  # it compares the outputs with the model's


def asked(model: nn.Module, reference: nn.Module, task: Sentences, folder: Path) -> Export:
    example, target = next(task.batches("validation", 4))[0], Target(batch_size=4)
    return Export(
        model=model,
        reference=reference,
        example=example,
        signature=signature_of(model, example, target),
        encoding=Encoding(),
        calibration=[],
        target=target,
        folder=folder,
    )


@pytest.mark.parametrize("name", ["separate", "fused", "rotary"])
def test_numbers_of_heads_are_those_that_are_left(name: str) -> None:
    attention = prune(CASES[name][0]).attention
    sizes = ("num_heads", "num_key_value_heads", "num_key_value_groups", "head_dim")
    assert [getattr(attention, size) for size in sizes] == [2, 1, 2, 8]
    assert (attention.q_size, attention.kv_size) == (16, 8)


def test_the_head_that_all_ask_stays() -> None:
    attention = prune(CASES["one of keys"][0]).attention
    assert (attention.q.out_features, attention.k.out_features) == (16, 8)


def test_what_the_code_does_not_let_go_is_told_and_the_rest_is_pruned() -> None:
    task = Sentences(lambda: Network(Sized))
    reason = r"^1 of 2 sets .* left whole: attention\.c_attn, because what is left does not run"
    with pytest.warns(Left, match=reason):
        model = prune(task)
    whole, left = task.model().attention, model.attention
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), left.parameters(), strict=True)
    )
    assert (left.n_head, left.n_embd, model.down.in_features) == (QUERIES, WIDTH, 24)
    assert torch.isfinite(outputs(model)).all()


class Scaled(nn.Module):
    """Hidden neurons with a learned scale each."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.scale = nn.Linear(WIDTH, 48), nn.Parameter(torch.rand(48) + 0.5)
        self.down = nn.Linear(48, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu() * self.scale)


def test_parameters_of_a_module_of_the_users_own_are_told() -> None:
    with pytest.warns(Left, match=r"attention\.up, because attention has parameters for its chan"):
        model = prune(Sentences(lambda: Network(Scaled)))
    assert (model.attention.up.out_features, model.down.in_features) == (48, 24)


class Plain(nn.Module):
    """The last layer reads the sum of an embedding and an attention as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(50, WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.head = Attention(2, False), nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.head((x + self.attention(self.norm(x)))[:, -1])


def test_of_an_embedded_hidden_state_nothing_is_told() -> None:
    pruned = prune(Sentences(Plain))  # a warning would be an error
    assert pruned.attention.o.in_features == 16
