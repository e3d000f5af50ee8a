"""How tokens relate in attention: compared whatever the width, and learned."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces import Recovery, Split, Task
from spaces.training.features_term import matched, tapped
from spaces.training.recovery import recover
from spaces.training.relations_term import comparable, distance


class SelfAttention(nn.Module):
    def __init__(self, inner: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, inner) for _ in range(3))
        self.out = nn.Linear(inner, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        out: Tensor = self.out(F.scaled_dot_product_attention(q, k, v))
        return x + out


class Reader(nn.Module):
    """(batch, 5, 12) -> (batch, 3)."""

    def __init__(self, inner: int = 16) -> None:
        super().__init__()
        self.attention, self.head = SelfAttention(inner), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.attention(x).mean(1))
        return logits


class Reading(Task):
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Reader().eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(len(split))
        for _ in range(4):
            yield (
                torch.randn(batch_size, 5, 12, generator=generator),
                torch.zeros(batch_size).long(),
            )

    def describe(self) -> dict[str, str]:
        return {"name": "reading"}


TOKENS = torch.randn(16, 5, 12, generator=torch.Generator().manual_seed(3))
RELATED = ("attention.query", "attention.key", "attention.value")


def apart(student: nn.Module, teacher: nn.Module) -> float:
    """Return the mean divergence of relations."""
    seen = []
    for model in (student, teacher):
        with tapped(model, RELATED) as tap, torch.no_grad():
            model(TOKENS)
        seen.append(tap.take())
    return sum(float(distance(seen[0][n], seen[1][n])) for n in RELATED) / len(RELATED)


def pruned(teacher: nn.Module) -> nn.Module:
    """Return a student whose attention has lost a quarter of its width."""
    torch.manual_seed(1)
    student = Reader(12)
    mine, theirs = student.state_dict(), teacher.state_dict()
    cut = {k: v[tuple(slice(0, n) for n in mine[k].shape)] for k, v in theirs.items()}
    student.load_state_dict(cut)
    return student.eval()


def test_equal_relations_are_no_distance_apart_and_others_are() -> None:
    x, y = torch.randn(2, 4, 6), torch.randn(2, 4, 3)
    assert float(distance(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(distance(y, x)) > 0.01
    assert comparable(x, y)
    assert not comparable(x, torch.randn(2, 5, 6))  # other tokens
    assert not comparable(torch.randn(2, 6), torch.randn(2, 6))  # no tokens at all


def test_queries_keys_and_values_are_related_where_asked_for() -> None:
    teacher = Reading().model()
    with_them = matched(pruned(teacher), teacher, TOKENS, 0, relations=True)
    without = matched(pruned(teacher), teacher, TOKENS, 0)
    assert set(with_them.names) == {*without.names, *RELATED}
    assert not set(without.names) & set(RELATED)


def test_training_brings_relations_of_a_narrower_student_nearer() -> None:
    task = Reading()
    teacher = task.model()
    distances = {}
    for relations in (False, True):
        student = pruned(teacher)
        before = apart(student, teacher)
        recovery = Recovery(
            steps=60,
            feature_weight=10.0,
            feature_relations=relations,
            teacher_weight=1.0,
            learning_rate=5e-3,
            batch_size=16,
        )
        recover(student, teacher, task, recovery, seed=0, progress=lambda *step: None)
        distances[relations] = apart(student, teacher)
    assert distances[True] < 0.8 * before
    assert distances[True] < distances[False]
