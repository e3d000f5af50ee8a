"""Single weights that become zero, and stay zero in training."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from spaces import Infeasible, Plan, Recovery, Split, Task
from spaces.pruning.single import KeepZeros, prunable
from spaces.techniques.prune.weights import Weights
from spaces.training.recovery import recover


class Net(nn.Module):
    """A convolution, a tied pair, an embedding that is multiplied with, and attention."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.table = nn.Embedding(5, 16)
        self.head = nn.Linear(16, 5)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)
        x = self.b(self.a(x).relu())
        return self.head(self.attention(x, x, x)[0].mean(1))


@dataclasses.dataclass
class Given(Task):
    norm: bool = True

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Net(self.norm).eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        for rows in torch.randn(64, 4, 6, 6, generator=generator).split(batch_size):
            yield rows, torch.arange(len(rows)) % 5

    def describe(self) -> dict[str, str]:
        return {"name": "given"}


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((weight == 0).sum()) for name, weight in prunable(model).items()}


def pruned(task: Task, **settings: object) -> nn.Module:
    return Weights(**settings).apply(task.model(), task)  # type: ignore[arg-type]


def test_a_layer_loses_the_share_asked_for_and_embeddings_nothing() -> None:
    model = pruned(Given(), sparsity=0.75, scope="layer")
    assert zeros(model) == {
        "conv.weight": 3 * 4 * 16 * 9 // 4,
        "a.weight": 192,
        "attention.in_proj_weight": 3 * 192,
        "attention.out_proj.weight": 192,
    }
    assert model.b.weight is model.a.weight
    assert bool((model.head.weight != 0).all())


def test_the_smallest_weights_go_and_all_layers_compete() -> None:
    task = Given()
    whole = task.model()
    with torch.no_grad():
        whole.conv.weight *= 1e5
        whole.attention.out_proj.weight *= 1e-3
    model = Weights(sparsity=0.5, refit=False).apply(whole, task)
    found = zeros(model)
    total = sum(w.numel() for w in prunable(model).values())
    assert sum(found.values()) == total // 2
    assert found["conv.weight"] == 0
    assert found["attention.out_proj.weight"] == 256 - 6  # never less than 2 % of a layer


def test_two_of_four_inputs_stay() -> None:
    model = pruned(Given(), pattern="2:4", sparsity=0.9)
    for weight in prunable(model).values():
        fours = weight.movedim(1, -1).reshape(-1, 4)
        assert ((fours != 0).sum(1) == 2).all()


def test_what_stays_makes_up_for_what_is_gone() -> None:
    class Plain(Given):
        def model(self) -> nn.Module:
            torch.manual_seed(0)
            layers = nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16)
            return nn.Sequential(*layers).eval()

    task = Plain()
    x = torch.cat([x for x, _ in task.batches("train", 64)])
    with torch.no_grad():
        whole = task.model()(x)
        errors = [
            (pruned(task, sparsity=0.6, refit=refit)(x) - whole).norm() for refit in (True, False)
        ]
    assert errors[0] < 0.6 * errors[1]


def gpt2(head: str) -> Task:
    """A GPT-2 of two blocks, whose layers hold their weights as (inputs, outputs)."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=16,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )

    class Tokens(Given):
        def model(self) -> nn.Module:
            torch.manual_seed(0)
            return getattr(transformers, head)(config).eval()

        def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(len(split))
            for rows in torch.randint(1, 50, (64, 7), generator=generator).split(batch_size):
                yield rows, rows[:, 0] % 2

    return Tokens()


HEADS = ["GPT2LMHeadModel", "GPT2ForSequenceClassification"]


@pytest.mark.parametrize("head", HEADS)
def test_transposed_layers_lose_their_share(head: str) -> None:
    task = gpt2(head)
    found = zeros(pruned(task, sparsity=0.75, scope="layer"))
    blocks = {
        f"transformer.h.{i}.{name}.weight": 3 * size // 4
        for i in range(2)
        for name, size in {
            "attn.c_attn": 32 * 96,
            "attn.c_proj": 32 * 32,
            "mlp.c_fc": 32 * 128,
            "mlp.c_proj": 128 * 32,
        }.items()
    }
    assert {name: found[name] for name in blocks} == blocks
    assert found.keys() - blocks.keys() <= {"score.weight"}


def test_of_four_inputs_of_a_transposed_layer_two_stay() -> None:
    model = pruned(gpt2(HEADS[1]), pattern="2:4")
    for name, weight in prunable(model).items():
        rows = weight if name == "score.weight" else weight.T
        assert ((rows.reshape(-1, 4) != 0).sum(1) == 2).all(), name


def test_what_stays_of_a_transposed_layer_makes_up_for_what_is_gone() -> None:
    task = gpt2(HEADS[1])
    inputs, _ = next(task.batches("train", 64))
    found = {}
    for refit in (True, False):
        model = pruned(task, sparsity=0.6, refit=refit)
        with torch.no_grad():
            found[refit] = (model(inputs).logits - task.model()(inputs).logits).norm()
    assert found[True] < 0.8 * found[False]


@pytest.mark.parametrize("norm", [True, False], ids=["sgd", "adamw"])
def test_zeros_survive_training_and_the_rest_learns(norm: bool) -> None:
    task = Given(norm)
    model = pruned(task, sparsity=0.7)
    before = {n: w.detach().clone() for n, w in prunable(model).items()}
    recovery = Weights(sparsity=0.7).plan(Plan(recovery=Recovery(steps=5, batch_size=16))).recovery
    recover(model, task.model(), task, recovery, seed=0, progress=lambda *_: None)
    for name, weight in prunable(model).items():
        assert torch.equal(weight == 0, before[name] == 0)
        assert not torch.equal(weight, before[name])
        assert not bool(torch.signbit(weight[weight == 0]).any())
        assert not weight._backward_hooks


def test_zeros_are_put_back_whatever_the_optimizer_does() -> None:
    task = Given()
    model = pruned(task, sparsity=0.5)
    before = zeros(model)
    with KeepZeros().hold(model, task) as project:
        with torch.no_grad():
            for weight in model.parameters():
                weight += 1
        assert zeros(model) != before
        project()
        assert zeros(model) == before


def test_dead_dimensions_are_neutral() -> None:
    assert Weights(scope="layer").canonical() == Weights()
    assert Weights(sparsity=0.3, scope="layer", pattern="2:4").canonical() == Weights(pattern="2:4")
    setting = Weights(sparsity=0.3, scope="layer")
    assert setting.canonical() == setting
    assert Weights(pattern="2:4").plan(Plan()).recovery.constraints == (KeepZeros(),)


def test_what_cannot_be_pruned_says_so() -> None:
    class Odd(Given):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(6, 3))

    with pytest.raises(Infeasible, match="inputs divide by four"):
        pruned(Odd(), pattern="2:4")
    with pytest.raises(Infeasible, match="less than one weight"):
        pruned(Odd(), sparsity=0.01)
    with pytest.raises(ValueError, match="got 1"):
        Weights(sparsity=1)
