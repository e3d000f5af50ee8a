"""Metrics fed batch by batch: their scores, paired intervals, and outputs that are not kept."""

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _runtimes import Images, Tiny
from torch import Tensor

from objectives import Examples, Target
from objectives.artifacts import signature_of
from objectives.exporting.torch_modules import ModuleProgram
from objectives.fed_metrics import measured, value_of
from objectives.intervals import of_score
from objectives.metrics.accuracy import Accuracy


class Share:
    """Share of right predictions, as a metric."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.seen = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> float:
        return self.right / self.seen


class Error(Share):
    """Mean loss, of which less is better."""

    higher_is_better = False

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += float(torch.nn.functional.cross_entropy(outputs, targets, reduction="sum"))
        self.seen += len(targets)


def answers(noise: float, count: int = 1200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(0, 5, (count,), generator=generator)
    outputs = torch.randn(count, 5, generator=generator)
    outputs[torch.arange(count), targets] += 2
    return outputs + noise * torch.randn(count, 5, generator=generator), targets


def fed(metric: Any, outputs: Tensor, targets: Tensor, size: int = 100) -> Any:
    starts = range(0, len(targets), size)
    pieces = ((i, outputs[i : i + size], targets[i : i + size]) for i in starts)
    return measured(metric, len(targets), pieces)


def test_its_interval_and_its_paired_spread_are_about_those_of_a_bootstrap() -> None:
    jackknife, bootstrap = [], []
    for noise in (0.0, 0.6):
        outputs, targets = answers(noise)
        right = (outputs.argmax(1) == targets).float()
        value, low, high, parts = fed(Share(), outputs, targets)
        assert value == pytest.approx(float(right.mean()))
        of_rows = of_score(lambda i, r=right: float(r[i].mean()), len(right), value)
        assert (high - low) / (of_rows[1] - of_rows[0]) == pytest.approx(1, abs=0.5)
        jackknife.append(parts)
        bootstrap.append(of_rows[2])
    spreads = [float(np.std(np.subtract(*pair))) for pair in (jackknife, bootstrap)]
    assert spreads[0] / spreads[1] == pytest.approx(1, abs=0.5)


def test_equal_models_differ_by_nothing_however_their_batches_are_cut() -> None:
    outputs, targets = answers(0.0)
    assert fed(Share(), outputs, targets, 100) == fed(Share(), outputs, targets, 7)


def test_a_metric_that_is_better_when_lower_is_negated() -> None:
    outputs, targets = answers(0.0)
    value, low, high, _ = fed(Error(), outputs, targets)
    loss = torch.nn.functional.cross_entropy(outputs, targets)
    assert low < value == pytest.approx(-float(loss), rel=1e-5)
    assert value < high < 0


def test_a_metric_without_errors_has_an_interval() -> None:
    targets = torch.arange(40) % 4
    value, low, high, _ = fed(Share(), torch.eye(4)[targets], targets)
    assert value == high == 1
    assert 0.8 < low < 1


def test_what_a_metric_cannot_say_is_one_line() -> None:
    outputs, targets = answers(0.0, 1)
    with pytest.raises(ValueError, match="no interval of 1 sample"):
        fed(Share(), outputs, targets)

    class Both(Share):
        def compute(self) -> Any:
            return {"a": 1.0}

    with pytest.raises(TypeError, match="must return one number, got a dict"):
        value_of(Both())

    class Rare(Share):
        def compute(self) -> float:
            return math.nan if self.seen < 32 else 1.0

    outputs, targets = answers(0.0, 32)
    with pytest.raises(ValueError, match="no value without a 16th of the samples"):
        fed(Rare(), outputs, targets)


def test_outputs_of_a_split_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are dropped before the next ones are computed, and give the score of all."""
    monkeypatch.setattr("objectives.metrics.accuracy.PIECE_BYTES", 4 * 6 * 8)
    model = Tiny(Images).model()
    inputs = torch.randn(33, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        targets = model(inputs).argmax(1)
    targets[:9] = (targets[:9] + 1) % 6
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Watching(Share):
        def __deepcopy__(self, memo: Any) -> "Watching":
            return Watching()

        def update(self, outputs: Tensor, targets: Tensor) -> None:
            nonlocal most
            super().update(outputs, targets)
            alive.append(weakref.ref(outputs))
            rows = [o for ref in alive if (o := ref()) is not None]
            most = max(most, sum(map(len, {id(o): o for o in rows}.values())))

    target = Target(batch_size=4)
    program = ModuleProgram(
        signature_of(model, inputs[:4], target), target, tmp_path, model=model, dtype=torch.float32
    )
    score = Examples(
        inputs=inputs, targets=targets, score=lambda o, t: math.nan, metric=lambda: Watching()
    )
    found = Accuracy().measure(program, score)
    assert found.value == pytest.approx(24 / 33)
    assert found.low < found.value < found.high
    assert len(found.resamples) == 16
    assert most <= 2 * 8


def test_a_metric_of_torchmetrics_is_one() -> None:
    library = pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    outputs, targets = answers(0.0)
    metric = library.classification.MulticlassF1Score(num_classes=5)
    value, low, high, _ = fed(metric, outputs, targets)
    assert value == pytest.approx(float(metric(outputs, targets)))
    assert low < value < high
    loss = library.text.Perplexity()
    assert fed(loss, outputs[:, None], targets[:, None])[0] < 0
