"""Points of a space: which of them are the same candidate."""

from spaces import Slot, Space, Technique
from spaces.techniques.distill.features import Features
from spaces.techniques.distill.logits import Logits
from spaces.techniques.precision.training import Training


def slot(name: str, base: Technique, *fields: str) -> Slot:
    declared = type(base).__dataclass_fields__
    return Slot(name=name, base=base, ranges={f: declared[f].metadata["dimension"] for f in fields})


SPACE = Space(
    slots=(
        slot("precision.training", Training(), "dtype"),
        slot("distill.features", Features(), "weight"),
        slot("distill.logits", Logits(), "steps", "temperature", "labels"),
    )
)


def test_what_only_concerns_training_is_dead_where_nothing_is_trained() -> None:
    point = SPACE.neutral() | {
        "precision.training.dtype": "float32",
        "distill.features.weight": 1.0,
        "distill.logits.temperature": 4.0,
        "distill.logits.labels": "hard",
    }
    assert SPACE.canonical(point) == SPACE.neutral()
    trained = point | {"distill.logits.steps": 50}
    expected = trained | {"distill.logits.temperature": 1.0}
    assert SPACE.canonical(trained) == expected
    assert SPACE.canonical(expected) == expected
