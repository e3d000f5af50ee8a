"""Norms over all heads together: without one head the others would be scaled differently."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from _models import Made
from _sentences import VOCABULARY, Logits, OwnNorm, Sentences, outputs
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Infeasible, Left
from spaces.techniques.prune.channels import Channels

pytestmark = pytest.mark.usefixtures("one_thread")

Norm = Callable[[int], nn.Module]
WIDTH, HEADS, LENGTH = 32, 4, 8


def bare(width: int) -> nn.Module:
    return nn.LayerNorm(width, elementwise_affine=False)


class Attention(nn.Module):
    """Norms of queries and keys, of what the heads gather, or none of them."""

    def __init__(self, shared: int, fused: bool, asked: Norm, gathered: Norm) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = HEADS, shared, LENGTH
        self.sizes = (WIDTH, shared * LENGTH, shared * LENGTH)
        self.fused = fused
        if fused:
            self.qkv = nn.Linear(WIDTH, sum(self.sizes))
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, size) for size in self.sizes)
        self.q_norm, self.k_norm = asked(WIDTH), asked(shared * LENGTH)
        self.sub_norm, self.o = gathered(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found = self.qkv(x).split(self.sizes, -1) if self.fused else [f(x) for f in self.written()]
        parts = (self.q_norm(found[0]), self.k_norm(found[1]), found[2])
        counts = (self.num_heads, self.num_key_value_heads, self.num_key_value_heads)
        q, k, v = (
            p.view(*x.shape[:2], n, self.head_dim).transpose(1, 2)
            for p, n in zip(parts, counts, strict=True)
        )
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(self.sub_norm(y.transpose(1, 2).flatten(2)))

    def written(self) -> tuple[nn.Module, ...]:
        return self.q, self.k, self.v


class Perceptron(nn.Module):
    """A gated perceptron with a norm of its neurons, as in EVA-02 and BitNet."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(*s) for s in ((32, 48), (32, 48), (48, 32)))
        self.norm = norm(48)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(F.silu(self.gate(x)) * self.up(x)))


class Network(nn.Module):
    """Embedding, attention and perceptron, each normalised before and added, and a classifier."""

    def __init__(self, attention: nn.Module, perceptron: nn.Module) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention, self.perceptron = attention, perceptron

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.attention(self.norms[0](x))
        return self.head((x + self.perceptron(self.norms[1](x)))[:, -1])


def identity(width: int) -> nn.Module:
    return nn.Identity()


def attending(
    shared: int = HEADS,
    fused: bool = False,
    asked: Norm = identity,
    gathered: Norm = identity,
) -> Sentences:
    return Sentences(
        lambda: Network(Attention(shared, fused, asked, gathered), Perceptron(identity))
    )


def prune(task: Made | Sentences, **settings: Any) -> nn.Module:
    return Channels(ratio=0.5, **settings).apply(task.model(), task)


def shapes(module: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in module.parameters()]


@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, OwnNorm])
@pytest.mark.parametrize(("which", "name"), [("asked", "q_norm"), ("gathered", "sub_norm")])
def test_heads_under_one_norm_stay_and_it_is_named(
    which: str, name: str, norm: Norm, shared: int, fused: bool
) -> None:
    task = attending(shared, fused, **{which: norm})
    reason = rf"^1 of 2 sets .*: attention\.\w+, because attention\.{name} normalises over all head"
    with pytest.warns(Left, match=reason):
        pruned = prune(task, widths="uniform")
    assert shapes(pruned.attention) == shapes(task.model().attention)
    assert pruned.perceptron.down.in_features == 24
    assert torch.isfinite(outputs(pruned)).all()


@pytest.mark.parametrize("which", ["asked", "gathered"])
def test_heads_under_one_norm_without_parameters_stay_and_it_is_told(which: str) -> None:
    task = attending(**{which: bare})
    with pytest.warns(Left, match=r"^1 of 2 sets of units were left whole: attention\.\w, because"):
        pruned = prune(task, widths="uniform")
    assert shapes(pruned.attention) == shapes(task.model().attention)


def test_measured_widths_leave_them_too() -> None:
    task = attending(asked=nn.RMSNorm)
    with pytest.warns(Left, match="normalises over all heads"):
        pruned = prune(task)
    assert shapes(pruned.attention) == shapes(task.model().attention)


def test_without_such_a_norm_the_same_heads_go() -> None:
    assert prune(attending(), widths="uniform").attention.num_heads == 2


def test_a_scale_for_each_head_is_no_norm_over_all() -> None:
    class EachHead(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm = OwnNorm(width // LENGTH, LENGTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.unflatten(-1, (-1, LENGTH))).flatten(-2)

    task = attending(asked=EachHead)
    with pytest.warns(Left, match=r"because attention\.q_norm\.norm has parameters for its chan"):
        pruned = prune(task, widths="uniform")
    assert shapes(pruned.attention) == shapes(task.model().attention)


def test_neurons_under_a_norm_of_torch_go_in_a_gated_perceptron() -> None:
    """Those of a perceptron without a gate do; nothing is special about a product of two."""
    attention = Attention(HEADS, False, identity, identity)
    pruned = prune(Sentences(lambda: Network(attention, Perceptron(nn.LayerNorm))))
    assert pruned.perceptron.norm.normalized_shape == (pruned.perceptron.down.in_features,)
    assert pruned.perceptron.down.in_features < 48


class Around(nn.Module):
    """A layer, what a module of torch makes of all positions, a norm, and a classifier."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(12, WIDTH), inner
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if isinstance(self.inner, nn.MultiheadAttention):
            return self.head(self.norm(x + self.inner(x, x, x)[0])[:, -1])
        return self.head(self.norm(self.inner(x)[0])[:, -1])


def test_nothing_is_said_of_a_hidden_width_that_an_attention_of_torch_adds_to() -> None:
    task = Made(lambda: Around(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)), 5, 12)
    assert prune(task, widths="uniform").inner.num_heads == 2  # a warning would be an error


def test_where_positions_meet_without_heads_no_heads_are_spoken_of() -> None:
    task = Made(lambda: Around(nn.LSTM(WIDTH, WIDTH, batch_first=True)), 5, 12)
    with pytest.raises(Infeasible, match="because inner has parameters for its channels"):
        prune(task)


def olmo2(**sizes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.Olmo2Config(**sizes)
    return Logits(transformers.Olmo2ForCausalLM(config))


def bitnet(**sizes: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BitNetConfig(**sizes)
    return Logits(transformers.BitNetForCausalLM(config))


def transformer(build: Callable[..., nn.Module], shared: int) -> Sentences:
    return Sentences(
        lambda: build(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=shared,
            intermediate_size=48,
            max_position_embeddings=16,
            use_cache=False,
            initializer_range=0.3,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


@pytest.mark.parametrize("shared", [4, 2, 1])
def test_olmo2_keeps_its_heads_with_a_reason_and_loses_neurons(shared: int) -> None:
    task = transformer(olmo2, shared)
    reason = r"^2 of 4 sets .*: body\.model\.layers\.0\.self_attn\.q_proj, because \S+q_norm normal"
    with pytest.warns(Left, match=reason):
        pruned = prune(task, widths="uniform")
    for before, after in zip(task.model().body.model.layers, pruned.body.model.layers, strict=True):
        assert shapes(before.self_attn) == shapes(after.self_attn)
        assert after.mlp.down_proj.in_features == 24
    assert torch.isfinite(outputs(pruned)).all()


def test_of_bitnet_nothing_can_go_and_a_sentence_says_why() -> None:
    task = transformer(bitnet, 4)
    reason = r"^no layer .*: body\.model\.layers\.0\.self_attn\.q_proj, because \S+attn_sub_norm no"
    with pytest.raises(Infeasible, match=reason):
        prune(task)
