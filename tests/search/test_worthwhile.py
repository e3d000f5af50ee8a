"""Cheap before dear: what is not asked, and what is asked in its place."""

import dataclasses
from pathlib import Path

from _answers import answer, measured, opened

from search.records.record import Record
from search.study.study import PendingTrial, Study


def told(study: Study, count: int) -> list[PendingTrial]:
    pending = []
    for _ in range(count):
        trial = study.ask()
        assert trial is not None
        study.tell(trial, answer(trial))
        pending.append(trial)
    return pending


def test_a_point_is_tried_without_training_first(project: Path) -> None:
    seen = set()
    for trial in told(opened(project), 30):
        trained = trial.point["distill.logits.steps"] != 0
        rest = {k: v for k, v in trial.point.items() if not k.startswith("distill.")}
        assert not trained or str(rest) in seen
        seen.add(str(rest))


def test_what_lost_nothing_is_not_trained(project: Path) -> None:
    study = opened(project, trials=60)
    for trial in told(study, 40):
        lossy = (
            trial.point["prune.channels.ratio"] or trial.point["quantize.integer.weight_bits"] == 8
        )
        assert lossy or trial.point["distill.logits.steps"] == 0


def test_what_cannot_be_measured_without_training_is_not_trained(project: Path) -> None:
    study = opened(project, trials=60)
    asked = []
    while (trial := study.ask()) is not None and len(asked) < 40:
        record = answer(trial)
        if trial.point["prune.channels.ratio"]:
            reason = "it breaks a limit"
            record = dataclasses.replace(record, state="pruned", reason=reason, measurements={})
        study.tell(trial, record)
        asked.append(trial.point)
    assert any(p["prune.channels.ratio"] for p in asked)
    assert all(p["distill.logits.steps"] == 0 for p in asked if p["prune.channels.ratio"])


def noisy(trial: PendingTrial) -> Record:
    """Return a record whose accuracy is known within 0.2 only."""
    record = answer(trial)
    score = record.measurements["accuracy"]
    known = dataclasses.replace(score, low=score.value - 0.2, high=score.value + 0.2)
    times = {**record.measurements, "accuracy": known, "latency": measured(1.0, "ms")}
    return dataclasses.replace(record, measurements=times)


def test_a_loss_within_noise_is_none(project: Path) -> None:
    study = opened(project, trials=60)
    asked = []
    while (trial := study.ask()) is not None and len(asked) < 40:
        study.tell(trial, noisy(trial))
        asked.append(trial.point)
    assert asked
    assert all(point["distill.logits.steps"] == 0 for point in asked)
