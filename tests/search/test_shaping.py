"""What pruning leaves whole or drops is told in the record, also of a model from the cache."""

import warnings
from pathlib import Path

from torch import nn

from search.evaluation.shape import collect_left, removal_facts
from search.executors.local import Local
from search.experiment.experiment import Experiment
from search.records import Facts
from search.study.study import PendingTrial
from spaces import Left
from spaces.modules.dropped import drop

TIED = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(6, 32)
        self.b.weight = self.a.weight
        self.c, self.d = nn.Linear(32, 40), nn.Linear(40, 3)

    def forward(self, x):
        return self.d(self.c(self.a(x).relu() + self.b(x)).relu())


def model():
    torch.manual_seed(0)
    return Tied()
"""


def test_what_was_left_is_collected_and_other_warnings_go_on() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with collect_left() as left:
            for message, kind in (("It stays.", Left), ("It stays.", Left), ("old", FutureWarning)):
                warnings.warn(message, kind, stacklevel=1)
    assert left == ["It stays."]
    assert [(w.category, str(w.message)) for w in seen] == [(FutureWarning, "old")]


def test_dropped_blocks_are_facts_and_a_sentence() -> None:
    whole, pruned = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    drop(pruned[1])
    facts = removal_facts(whole, pruned)
    assert facts == {"weights_removed": 0.5, "layers_dropped": ["1"]}
    told = Facts(**facts, left=("It stays.",)).sentences()
    assert told == ["Dropped: 1.", "It stays."]
    assert Facts(**removal_facts(whole, whole)).sentences() == []


def test_the_record_says_what_was_left_whole_again_when_the_shape_is_known(project: Path) -> None:
    task = project / "task.py"
    head, _, rest = task.read_text().partition("def model():")
    task.write_text(head + TIED + rest[rest.index("\n\n\n") :])
    experiment = Experiment.load(project / "experiment.toml")
    point = experiment.space.neutral() | {
        "deploy.runtime.name": "null",
        "prune.channels.ratio": 0.5,
    }
    run = project / "run"
    run.mkdir()
    executor = Local(experiment=experiment, folder=run, cores=1)
    for trial in (0, 1):
        record = executor.evaluate(
            PendingTrial(trial=trial, point=point, forced=True), None, lambda *_: None
        )
        assert record.state == "complete", record.reason
        assert record.note is not None
        assert record.note.startswith("1 of 2 sets of units were left whole: a, because a and b")
        assert record.facts.left == (record.note,)
