"""Structured pruning: widths derived by hand, and what stays must compute what it did."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _models import convolutions
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Infeasible, Left, Split, Stage, Task
from spaces.modules.batchnorm_statistics import reestimate
from spaces.modules.structure.families import keep
from spaces.modules.surgery import achieved
from spaces.modules.trees import call, flatten
from spaces.techniques.prune.channels import Channels

pytestmark = pytest.mark.usefixtures("one_thread")


class Made(Task):
    """A made-up network on random inputs."""

    def __init__(self, build: Callable[[], nn.Module], inputs: Callable[[int], Any]) -> None:
        self.build, self.inputs = build, inputs

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.build().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
            made = [self.inputs(batch_size) for _ in range(2)]
        for batch in made:
            yield batch, torch.zeros(batch_size, dtype=torch.int64)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return something that depends on every output, whatever their shapes."""
        return sum((t.float() ** 2).sum() for t in flatten(outputs)[0])  # type: ignore[return-value]

    def describe(self) -> dict[str, str]:
        return {"name": "made"}


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8)


def vectors(n: int) -> Tensor:
    return torch.randn(n, 12)


def tokens(n: int) -> Tensor:
    return torch.randn(n, 5, 32)


def prune(task: Made, ratio: float, **settings: Any) -> nn.Module:
    return Channels(ratio=ratio, **{"widths": "uniform", **settings}).apply(task.model(), task)


def outputs(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return flatten(call(model.eval(), inputs))[0][0]


def plain() -> nn.Module:
    return nn.Sequential(
        *convolutions(32, 64, pixels=2), nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 5)
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (
            nn.Conv2d(i, o, 3, 1, 1) for i, o in ((3, 32), (32, 48), (48, 32))
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.b(self.a(x).relu())).mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=groups)
        self.norm, self.head = nn.BatchNorm2d(64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.g(self.a(x).relu())).relu().mean((2, 3)))


class Mobile(nn.Module):
    """An inverted residual as in MobileNetV2: wide in between, one kernel for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)  # too narrow to lose a channel
        self.expand, self.project = nn.Conv2d(8, 64, 1, bias=False), nn.Conv2d(64, 8, 1)
        self.depth = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(2))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.norms[0](self.expand(x)))
        y = F.relu6(self.norms[1](self.depth(y)))
        return self.head((x + self.project(y)).mean((2, 3)))


class SelfAttention(nn.Module):
    """As in BERT: three layers, and attributes that go stale."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = 4, 8, 32
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.num_attention_heads, self.attention_head_size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        context = ((q @ k.transpose(2, 3)) / 8**0.5).softmax(-1) @ v
        return context.transpose(1, 2).reshape(*x.shape[:2], self.all_head_size)


class Fused(nn.Module):
    """As in vision transformers: one layer for query, key and value."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.interleaved, self.heads, self.dim = interleaved, 4, 8
        self.qkv = nn.Linear(32, 96)

    def forward(self, x: Tensor) -> Tensor:
        both = (self.heads, 3) if self.interleaved else (3, self.heads)
        parts = self.qkv(x).reshape(*x.shape[:2], *both, self.dim)
        parts = parts.permute(3, 0, 2, 1, 4) if self.interleaved else parts.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(*parts.unbind(0)).transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    """Class token, position embedding, pre-norm blocks."""

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.position = nn.Parameter(torch.randn(1, 6, 32))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.attentions = nn.ModuleList(attention() for _ in range(2))
        self.dense = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(32, 80) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(80, 32) for _ in range(2))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for i in range(2):
            x = x + self.dense[i](self.attentions[i](self.norms[2 * i](x)))
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x))))
        return self.head(x[:, 0])


def torch_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 80, dropout=0.1, batch_first=True)
    return nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 3)
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(12, 32)
        self.b.weight = self.a.weight
        self.c, self.d = nn.Linear(32, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(self.c(self.a(x).relu() + self.b(x)).relu())


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.b(self.a(x))


class Shuffled(nn.Module):
    """Reorders channels in a way that no trace of couplings sees."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu().view(-1, 4, 8).transpose(1, 2).reshape(-1, 32)
        return self.c(self.b(x).relu())


ALL: dict[str, Made] = {
    "plain": Made(plain, images),
    "residual": Made(Residual, images),
    "grouped": Made(lambda: Grouped(4), images),
    "depthwise": Made(lambda: Grouped(64), images),
    "mobile": Made(Mobile, images),
    "bert": Made(lambda: Encoder(SelfAttention), tokens),
    "fused": Made(lambda: Encoder(lambda: Fused(False)), tokens),
    "interleaved": Made(lambda: Encoder(lambda: Fused(True)), tokens),
    "torch": Made(torch_encoder, tokens),
    "tied": Made(Tied, vectors),
}
everywhere = pytest.mark.parametrize("name", ALL)


@pytest.mark.parametrize(
    ("units", "size", "ratio", "round_to", "expected"),
    [
        (64, 1, 0.3, 8, 48),  # 44.8 lies nearer to 48 than to 40
        (64, 1, 0.1, 8, 56),  # 57.6
        (64, 1, 0.05, 8, 64),  # 60.8
        (16, 1, 0.9, 8, 8),  # never below one multiple
        (12, 1, 0.5, 8, 8),
        (5, 1, 0.9, 8, 5),  # too small a layer stays
        (64, 1, 0.5, 1, 32),
        (12, 32, 0.3, 8, 8),  # heads of 32: every number of heads is a multiple
        (12, 12, 0.3, 8, 8),  # heads of 12: an even number of heads is
        (1, 32, 0.9, 8, 1),
    ],
)
def test_keep(units: int, size: int, ratio: float, round_to: int, expected: int) -> None:
    assert keep(units, size, ratio, round_to) == expected


def test_plain_network_has_the_widths_derived_by_hand() -> None:
    model = prune(ALL["plain"], 0.5)
    assert [m.out_channels for m in model if isinstance(m, nn.Conv2d)] == [16, 32]
    assert model[1].num_features == 16
    # the flattening keeps 4 pixels of each of 32 channels; 100 neurons become 6.25 -> 6 times 8
    assert (model[7].in_features, model[7].out_features) == (128, 48)
    assert model[9].out_features == 5


def test_weakest_channels_go() -> None:
    task = Made(lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)), vectors)
    model = task.model()
    with torch.no_grad():
        model[0].weight[8:] *= 100
        model[2].weight[:, 8:] *= 100
    strong = model[0].weight[8:].clone()
    pruned = Channels(ratio=0.5).apply(model, task)
    assert torch.equal(pruned[0].weight, strong)


def test_residual_channels_are_removed_together() -> None:
    model = prune(ALL["residual"], 0.5)
    assert model.stem.out_channels == model.a.in_channels == model.b.out_channels == 16
    assert model.a.out_channels == model.b.in_channels == 24
    assert model.head.in_features == 16


def test_groups_stay_equal() -> None:
    model = prune(ALL["grouped"], 0.5)
    assert model.g.groups == 4
    assert tuple(model.g.weight.shape) == (32, 8, 3, 3)
    depthwise = prune(ALL["depthwise"], 0.5).g
    assert (depthwise.groups, tuple(depthwise.weight.shape)) == (32, (32, 1, 3, 3))


def test_transformer_keeps_its_hidden_width_and_loses_heads_and_neurons() -> None:
    model = prune(ALL["bert"], 0.5)
    attention = model.attentions[1]
    assert tuple(attention.query.weight.shape) == (16, 32)
    assert (attention.num_attention_heads, attention.attention_head_size) == (2, 8)
    assert attention.all_head_size == model.dense[1].in_features == 16
    assert tuple(model.up[0].weight.shape) == (40, 32)
    assert tuple(model.position.shape) == (1, 6, 32)


@pytest.mark.parametrize("name", ["fused", "interleaved"])
def test_fused_projections_lose_whole_heads(name: str) -> None:
    model = prune(ALL[name], 0.5)
    assert tuple(model.attentions[0].qkv.weight.shape) == (48, 32)
    assert (model.attentions[0].heads, model.attentions[0].dim) == (2, 8)


def kept_rows(whole: Tensor, pruned: Tensor) -> list[int]:
    """Return which rows of a weight are still there."""
    found = [int((whole == row).flatten(1).all(1).nonzero()[0, 0]) for row in pruned]
    assert len(set(found)) == len(found)
    return found


@pytest.mark.parametrize(
    ("name", "producer", "reader", "columns"),
    [
        ("mobile", "expand", "project", lambda kept: kept),
        ("depthwise", "a", "head", lambda kept: kept),
        ("bert", "attentions.0.query", "dense.0", lambda kept: kept),
        ("fused", "attentions.0.qkv", "dense.0", lambda kept: [i for i in kept if i < 32]),
        (
            "interleaved",  # rows are (heads, 3, length)
            "attentions.0.qkv",
            "dense.0",
            lambda kept: [i // 24 * 8 + i % 8 for i in kept if i % 24 < 8],
        ),
    ],
)
def test_the_pruned_model_computes_what_the_masked_one_does(
    name: str, producer: str, reader: str, columns: Callable[[list[int]], list[int]]
) -> None:
    task = ALL[name]
    pruned, masked = prune(task, 0.5, refit=False), task.model()
    stay: set[int] = set()
    for index in ("0", "1"):
        first, second = (part.replace("0", index) for part in (producer, reader))
        rows = masked.get_submodule(first).weight, pruned.get_submodule(first).weight
        stay = set(columns(kept_rows(*rows)))
        weight = masked.get_submodule(second).weight
        assert 0 < len(stay) < weight.shape[1]
        with torch.no_grad():
            weight[:, [i for i in range(weight.shape[1]) if i not in stay]] = 0
    for up, down in zip(getattr(masked, "up", ()), getattr(masked, "down", ()), strict=True):
        index = [down is d for d in masked.down].index(True)
        stay = set(kept_rows(up.weight, pruned.up[index].weight))
        with torch.no_grad():
            down.weight[:, [i for i in range(80) if i not in stay]] = 0
    reestimate(masked, task)
    x = task.inputs(5)
    assert torch.allclose(outputs(pruned, x), outputs(masked, x), atol=1e-4)


def test_torch_attention_loses_heads_and_behaves_as_before() -> None:
    task = ALL["torch"]
    attention = prune(task, 0.5)[0].layers[0].self_attn
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, 8, 32)
    assert tuple(attention.in_proj_weight.shape) == (48, 32)
    x, mask = task.inputs(3), torch.ones(5, 5, dtype=torch.bool).triu(1)
    output, weights = attention(x, x, x, attn_mask=mask)
    quick, none = attention(x, x, x, attn_mask=mask, need_weights=False)
    assert torch.allclose(output, quick, atol=1e-5)
    assert none is None
    assert weights.shape == (3, 5, 5)
    assert (weights.triu(1) == 0).all()


def test_torch_attention_equals_the_whole_with_idle_heads() -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    with torch.no_grad():
        whole.out_proj.weight[:, 8:24] = 0  # heads 1 and 2 are not read, hence the weakest
        whole.in_proj_weight.view(3, 4, 8, 32)[:, 1:3] *= 0.01
    net = nn.ModuleDict({"attention": whole, "head": nn.Linear(32, 3)})
    net.forward = lambda x, p: net["head"](  # type: ignore[method-assign]
        net["attention"](x, x, x, key_padding_mask=p)[0]
    )
    padding = torch.tensor([[False] * 5, [False, False, True, True, True]])
    x = torch.randn(2, 5, 32)
    before = net(x, padding)
    task = Made(lambda: net, lambda n: (x[:n], padding[:n]))
    Channels(ratio=0.5).apply(net, task)
    assert whole.num_heads == 2
    assert torch.allclose(net(x, padding), before, atol=1e-5)


def test_bert_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=16,
    )
    task = Made(
        lambda: transformers.BertModel(config, add_pooling_layer=False),
        lambda n: {
            "input_ids": torch.randint(0, 50, (n, 7)),
            "attention_mask": torch.ones(n, 7, dtype=torch.int64),
        },
    )
    layer = prune(task, 0.5).encoder.layer[1]
    assert tuple(layer.attention.self.query.weight.shape) == (16, 32)
    assert layer.attention.self.num_attention_heads == 2
    assert layer.attention.self.all_head_size == 16
    assert layer.intermediate.dense.out_features == 40


def test_tied_layers_stay_whole_and_tied() -> None:
    with pytest.warns(Left, match="^1 of 2 sets of units were left whole: a, because a and b"):
        model = prune(ALL["tied"], 0.5)
    assert model.a.weight is model.b.weight
    assert (model.a.out_features, model.c.out_features) == (32, 24)


@everywhere
def test_nothing_changes_at_the_neutral_setting(name: str) -> None:
    task = ALL[name]
    model, x = task.model(), task.inputs(3)
    assert torch.equal(outputs(Channels().apply(task.model(), task), x), outputs(model, x))


@everywhere
@pytest.mark.filterwarnings("ignore::spaces.Left")
def test_reference_is_not_edited_and_the_same_setting_builds_the_same(name: str) -> None:
    task = ALL[name]
    reference = task.model()
    state = copy.deepcopy(reference.state_dict())
    first = Channels(ratio=0.4).apply(copy.deepcopy(reference), task)
    torch.manual_seed(99)
    strong = Channels(ratio=0.8).apply(copy.deepcopy(reference), task)  # must leave no trace
    second = Channels(ratio=0.4).apply(copy.deepcopy(reference), task)
    assert all(torch.equal(state[k], v) for k, v in reference.state_dict().items())
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert 0 < achieved(reference, first) < achieved(reference, strong) < 1


def test_gradients_and_modes_are_restored() -> None:
    task = ALL["plain"]
    model = task.model()
    model[0].weight.requires_grad_(False)
    model[7].train()
    pruned = Channels(ratio=0.5).apply(model, task)
    frozen = [n for n, p in pruned.named_parameters() if not p.requires_grad]
    assert frozen == ["0.weight"]
    assert [n for n, m in pruned.named_modules() if m.training] == ["7"]
    assert pruned[1].momentum == 0.1


def test_random_state_is_left_alone() -> None:
    task = ALL["plain"]
    model = task.model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Channels(ratio=0.5).apply(model, task)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("ratio", "width"), [(0.05, 64), (0.9, 7)])
def test_where_nothing_is_to_be_removed_the_model_comes_back_unchanged(
    ratio: float, width: int
) -> None:
    task = Made(
        lambda: nn.Sequential(nn.Linear(12, width), nn.BatchNorm1d(width), nn.Linear(width, 3)),
        vectors,
    )
    model = task.model()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(Left, match=f"No channels were removed: at ratio {ratio} .* multiple of 8"):
        pruned = Channels(ratio=ratio).apply(model, task)
    assert pruned is model
    assert all(torch.equal(before[k], v) for k, v in pruned.state_dict().items())


def test_a_model_that_cannot_be_traced_says_so() -> None:
    with pytest.raises(Infeasible, match=r"cannot be traced for pruning: no output depends"):
        prune(Made(Untraceable, vectors), 0.5)


def test_a_model_with_nothing_to_remove_says_so() -> None:
    with pytest.raises(Infeasible, match="no layer of the model has channels"):
        prune(Made(lambda: nn.Linear(12, 3), vectors), 0.5)


def test_what_would_compute_something_else_stays_and_warns() -> None:
    with pytest.warns(Left, match="^1 of 2 sets of units were left whole: a, because "):
        model = prune(Made(Shuffled, vectors), 0.5)
    assert (model.a.out_features, model.b.out_features) == (32, 16)


def test_settings() -> None:
    assert Channels.stage is Stage.SHAPE
    assert [s.ratio for s in Channels(round_to=4).usual()] == [0.2, 0.4]
    assert all(s.round_to == 4 for s in Channels(round_to=4).usual())
    with pytest.raises(ValueError, match="at least 1 channel, got 0"):
        Channels(round_to=0)


def test_statistics_are_averages_over_the_batches() -> None:
    task = Made(lambda: nn.Sequential(nn.BatchNorm1d(12, momentum=0.3), nn.Dropout(0.5)), vectors)
    model = task.model()
    reestimate(model, task, count=256)
    first, second = (x for x, _ in task.batches("train", 128))
    assert torch.allclose(model[0].running_mean, (first.mean(0) + second.mean(0)) / 2, atol=1e-6)
    assert torch.allclose(model[0].running_var, (first.var(0) + second.var(0)) / 2, atol=1e-5)
    assert model[0].momentum == 0.3
    assert not model[0].training
    reestimate(model, task, count=1)
    assert torch.allclose(model[0].running_mean, first[:32].mean(0), atol=1e-6)


def test_without_statistics_no_data_is_asked_for() -> None:
    class NoData(Made):
        def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
            raise AssertionError("asked for data")

    layer = nn.Linear(12, 3)
    before = layer.weight.detach().clone()
    reestimate(layer, NoData(plain, images))
    assert torch.equal(layer.weight, before)
