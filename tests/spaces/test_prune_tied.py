"""Weights that serve several times: after pruning they still do, and count once."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from _sentences import VOCABULARY, Logits, Sentences, outputs
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Left
from spaces.modules.surgery import WEIGHTS, achieved, load, save
from spaces.techniques.prune.channels import Channels

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 16,
    # as large as trained ones: attention must matter, or a wrong cut of heads is not seen
    "initializer_range": 0.3,
}


def albert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.AlbertConfig(**SIZES, embedding_size=16, num_hidden_layers=3)
    return Logits(transformers.AlbertForMaskedLM(config))


def bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(**SIZES, num_hidden_layers=2, tie_word_embeddings=True)
    return Logits(transformers.BertForMaskedLM(config))


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        **SIZES,
        num_hidden_layers=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return Logits(transformers.LlamaForCausalLM(config))


class Block(nn.Module):
    """Attention of four heads and a perceptron, each added to the hidden state (..., 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, 8)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Universal(nn.Module):
    """One block under three names, and an embedding that is the classifier too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, 32), nn.LayerNorm(32)
        self.blocks = nn.ModuleList([Block()] * 3)
        self.head = nn.Linear(32, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    task: Sentences
    heads: dict[str, int]
    """What reads heads, with the channels of a unit there: a group's, where queries are grouped."""
    neurons: tuple[str, ...]
    counts: dict[str, int]
    """Attributes that tell numbers of heads, with what is left of them."""
    ties: tuple[tuple[str, str], ...]
    told: str = ""
    """The reason of what is left whole."""


_ALBERT = "body.albert.encoder.albert_layer_groups.0.albert_layers.0"
_BERT = tuple(f"body.bert.encoder.layer.{i}" for i in range(2))
_LLAMA = tuple(f"body.model.layers.{i}" for i in range(2))
CASES = {
    "albert": Case(
        task=Sentences(albert),
        heads={f"{_ALBERT}.attention.dense": 8},
        neurons=(f"{_ALBERT}.ffn_output",),
        counts={f"{_ALBERT}.attention.num_attention_heads": 2},
        ties=(("body.albert.embeddings.word_embeddings", "body.predictions.decoder"),),
        told="embeddings.word_embeddings and body.predictions.decoder share their weights",
    ),
    "bert": Case(
        task=Sentences(bert),
        heads={f"{layer}.attention.output.dense": 8 for layer in _BERT},
        neurons=tuple(f"{layer}.output.dense" for layer in _BERT),
        counts={f"{layer}.attention.self.num_attention_heads": 2 for layer in _BERT},
        ties=(("body.bert.embeddings.word_embeddings", "body.cls.predictions.decoder"),),
        told="embeddings.word_embeddings and body.cls.predictions.decoder share their weights",
    ),
    "llama": Case(
        task=Sentences(llama),
        heads={f"{layer}.self_attn.o_proj": 16 for layer in _LLAMA},
        neurons=tuple(f"{layer}.mlp.down_proj" for layer in _LLAMA),
        counts={},
        ties=(("body.model.embed_tokens", "body.lm_head"),),
    ),
    "universal": Case(
        task=Sentences(Universal),
        heads={"blocks.0.out": 8},
        neurons=("blocks.0.down",),
        counts={"blocks.2.heads": 2},
        ties=(
            ("embedding", "head"),
            ("blocks.0.qkv", "blocks.1.qkv"),
            ("blocks.0.down", "blocks.2.down"),
        ),
    ),
}
everywhere = pytest.mark.parametrize("name", CASES)


def idle(case: Case) -> Sentences:
    """Return a task whose model does not read every second unit of heads, nor half its neurons."""

    def build() -> nn.Module:
        model = case.task.build()
        with torch.no_grad():
            for name, unit in case.heads.items():
                weight = model.get_submodule(name).weight
                weight.view(len(weight), -1, 2, unit)[:, :, 1] = 0
            for name in case.neurons:
                model.get_submodule(name).weight[:, 1::2] = 0
        return model

    return Sentences(build)


@pytest.fixture(params=["uniform", "measured"])
def widths(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prune(case: Case, task: Sentences, widths: str = "uniform") -> nn.Module:
    technique = Channels(ratio=0.5, widths=widths)
    if not case.told:
        return technique.apply(task.model(), task)  # a warning would be an error
    with pytest.warns(Left, match=f"^1 of . sets of units were left whole: .*{case.told}"):
        return technique.apply(task.model(), task)


def weights(model: nn.Module, pair: tuple[str, str]) -> list[nn.Parameter]:
    return [model.get_submodule(name)._parameters["weight"] for name in pair]


@everywhere
def test_what_is_read_nowhere_goes_and_the_outputs_stay(name: str) -> None:
    case = CASES[name]
    task = idle(case)
    whole, pruned = task.model(), prune(case, task)
    assert torch.allclose(outputs(pruned), outputs(whole), atol=1e-3)
    for reader in (*case.heads, *case.neurons):
        before, after = (m.get_submodule(reader).in_features for m in (whole, pruned))
        assert after == before // 2, reader
    for path, left in case.counts.items():
        module, _, attribute = path.rpartition(".")
        assert getattr(pruned.get_submodule(module), attribute) == left


@everywhere
def test_ties_are_ties_after_pruning_and_when_loaded(
    name: str, widths: str, tmp_path: Path
) -> None:
    case = CASES[name]
    whole, pruned = case.task.model(), prune(case, case.task, widths)
    assert achieved(whole, pruned) > 0.05
    save(tmp_path, whole, pruned)
    again = load(tmp_path, case.task.model())
    for model in (whole, pruned, again):
        assert all(a is b for a, b in (weights(model, pair) for pair in case.ties))
    assert torch.equal(outputs(again), outputs(pruned))
    stored = sum(tensor.numel() for tensor in load_file(tmp_path / WEIGHTS).values())
    buffers = sum(b.numel() for b in pruned.buffers())
    assert stored <= sum(p.numel() for p in pruned.parameters()) + buffers


@everywhere
def test_training_a_tie_of_the_pruned_model_moves_both_ends(name: str) -> None:
    case = CASES[name]
    pruned = prune(case, case.task)
    ids, _ = next(case.task.batches("train", 4))
    pruned(ids).square().mean().backward()
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.1)
    before = [weights(pruned, pair)[0].detach().clone() for pair in case.ties]
    optimizer.step()
    for pair, old in zip(case.ties, before, strict=True):
        first, second = weights(pruned, pair)
        assert torch.equal(first, second)
        assert not torch.equal(first, old)
