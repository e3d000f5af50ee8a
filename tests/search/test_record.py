"""A record survives storage, and refuses what cannot be stored."""

import json

import pytest
from _examples import record, study

from search.records import Facts
from search.records.record import Record


def test_json_round_trip_of_every_example():
    for given in study():
        assert Record.from_json(json.loads(given.line())) == given


def test_line_is_one_line_of_strict_json():
    given = record(1, 0.9, 1.0, 10, note="two\nlines", facts=Facts(remark="ä"))
    assert "\n" not in given.line()
    assert json.loads(given.line())["note"] == "two\nlines"


def test_contract_of_front_json():
    data = record(12, 0.881, 0.5, 1000, artifact="artifacts/12").to_json()
    assert set(data) >= {"trial", "point", "measurements", "test", "runtime", "artifact", "state"}
    assert data["reason"] is None
    assert set(data["measurements"]["accuracy"]) == {"value", "unit", "low", "high", "samples"}


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="trial 3 cannot be stored as JSON"):
        record(3, 0.9, 1.0, 10, facts=Facts(loss=(float("nan"),)))


def test_whatever_is_not_complete_needs_a_reason():
    with pytest.raises(ValueError, match="trial 4 is failed: it needs a reason"):
        record(4, state="failed")


def test_unknown_state_is_refused():
    with pytest.raises(ValueError, match="a state is one of complete, pruned"):
        record(4, state="done", reason="x")  # type: ignore[arg-type]


def test_limits_are_satisfied_at_zero():
    assert record(1, 0.9, 1.0, 10, limits={"latency.most": 0.0}).satisfied
    assert not record(1, 0.9, 1.0, 10, limits={"latency.most": 1e-9}).satisfied
