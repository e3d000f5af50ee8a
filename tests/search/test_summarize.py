"""What is told of a study's limits is what they mean."""

import pytest
from _examples import record

from objectives.metrics.accuracy import Accuracy
from objectives.metrics.latency import Latency
from search.experiment.goals import Goal
from search.reporting.summary import limits_in_words


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (0.9, "at most 0.05 score below the unchanged model"),  # 0.85, which is not 5 % below
        (-3.0, "at most 5 % below the unchanged model"),  # an error with its sign turned
    ],
)
def test_a_share_of_a_score_is_told_in_its_points(start: float, words: str) -> None:
    goal = Goal(name="accuracy", objective=Accuracy(), within_share=0.05)
    assert limits_in_words(goal, record(0, start)) == {"accuracy.within": words}


def test_a_share_of_a_time_is_told_as_a_share() -> None:
    goal = Goal(name="latency", objective=Latency(), within_share=0.05)
    told = limits_in_words(goal, record(0, 0.9, 1.0))
    assert told == {"latency.within": "at most 5 % above the unchanged model"}
