"""What the comparison with other tools says of times that are known to agree or not."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))

from _agreement import (
    STATISTICS,
    Row,
    Spread,
    Timing,
    agreement,
    sentences,
    table,
)
from _foreign import Unusable, read_report, refuse

MEDIAN, LOWEST = STATISTICS.values()
MANIFEST = {
    "runtime": "onnxruntime",
    "target": {"device": "cpu"},
    "encoding": {},
    "notes": {},
}


def row(name: str, ours: float, *medians: float, tool: str = "a loop") -> Row:
    """Return an artifact whose other tool reported a median each round."""
    theirs = tuple(Timing(median=m, lowest=0.9 * m) for m in medians)
    return Row(
        artifact=name, runtime="any", tool=tool, ours=ours, interval=(ours, ours), theirs=theirs
    )


def test_a_constant_factor_is_agreement() -> None:
    rows = [row(str(i), 0.8 * i, 1.0 * i, 1.7 * i) for i in range(1, 6)]
    found = agreement(rows, MEDIAN, "cpu")
    assert found.scale == pytest.approx(0.8)
    assert (found.share, found.pairs, found.tau) == (1.0, 1.0, pytest.approx(1.0))


def test_one_that_deviates_is_named_and_lowers_all_figures() -> None:
    rows = [row(str(i), i, i) for i in range(1, 5)] + [row("odd", 2.5, 4.5)]
    found = agreement(rows, MEDIAN, "cpu")
    assert found.largest == ("odd", pytest.approx(2.5 / 4.5))
    assert found.share == pytest.approx(4 / 5)
    assert found.pairs == pytest.approx(6 / 10)
    assert found.tau == pytest.approx((8 - 2) / 10)
    assert "odd" in " ".join(sentences({"medians": found}, "cpu"))


def test_cpus_are_excused_below_a_length_and_gpus_are_not() -> None:
    rows = [row("short", 0.13, 0.1), row("a", 1.0, 1.0), row("b", 2.0, 2.0)]
    assert agreement(rows, MEDIAN, "cpu").share == 1.0
    assert agreement(rows, MEDIAN, "cuda").share == pytest.approx(2 / 3)
    assert agreement(rows[:1], MEDIAN, "cpu").share is None


def test_short_ones_do_not_move_the_scale_of_the_others() -> None:
    rows = [row(f"short{i}", 0.2, 0.1) for i in range(5)] + [row("a", 1.0, 1.0), row("b", 2.0, 2.0)]
    found = agreement(rows, MEDIAN, "cpu")
    assert (found.scale, found.share, found.counted) == (1.0, 1.0, 2)


def test_gpus_have_to_agree_more_closely() -> None:
    rows = [row("a", 1.0, 1.0), row("b", 1.0, 1.0), row("c", 1.04, 1.0)]
    assert agreement(rows, MEDIAN, "cpu").share == 1.0
    assert agreement(rows, MEDIAN, "cuda").share == pytest.approx(2 / 3)


def test_what_one_tool_adds_is_told() -> None:
    rows = [row(f"a{i}", i, i) for i in range(1, 4)]
    rows += [row(f"b{i}", 0.5 * i, i, tool="another") for i in range(1, 3)]
    tools = agreement(rows, MEDIAN, "cpu").tools
    assert tools == {"a loop": pytest.approx(1.0), "another": pytest.approx(0.5)}


def test_a_round_that_was_slow_does_not_count() -> None:
    assert MEDIAN(row("a", 1.0, 3.0, 2.0, 9.0)) == 2.0
    assert LOWEST(row("a", 1.0, 3.0, 2.0, 9.0)) == pytest.approx(1.8)


def test_the_table_has_the_fastest_first() -> None:
    lines = table([row("slow", 2.0, 2.0), row("fast", 1.0, 1.0)], "cpu").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| fast", "| slow"]


def test_spread_is_relative() -> None:
    for unit in (1.0, 1e3):
        spread = Spread.of([1.0 * unit, 1.1 * unit, 1.2 * unit])
        assert spread.reach == pytest.approx(0.2)
        assert spread.deviation == pytest.approx(0.1 / 1.1)
        assert spread.count == 3


@pytest.mark.parametrize(
    ("text", "timing"),
    [
        (
            "[ INFO ] Latency:\n[ INFO ]    Median:        812.50 us\n"
            "[ INFO ]    Average:       830.00 us\n[ INFO ]    Min:           790.10 us\n",
            Timing(median=0.8125, lowest=0.7901),
        ),
        (
            "[ INFO ]    Median:        1.26 ms\n[ INFO ]    Min:           1.20 ms\n",
            Timing(median=1.26, lowest=1.20),
        ),
    ],
)
def test_both_units_of_benchmark_app_are_read(text: str, timing: Timing) -> None:
    found = dataclasses.astuple(read_report(text))
    assert found == pytest.approx(dataclasses.astuple(timing))


def test_a_report_without_times_is_no_timing() -> None:
    with pytest.raises(Unusable, match="the model has no output"):
        read_report("[ INFO ] Min: 3 requests\n[ ERROR ] the model has no output\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runtime": "null"}, "no tool"),
        ({"placement": {"count": 2}}, "several devices"),
        ({"encoding": {"coding": "lzma"}}, "compressed"),
        ({"runtime": "eager", "notes": {"kernels": True}}, "codes"),
    ],
)
def test_what_no_tool_runs_as_we_do_is_refused(change: dict[str, object], reason: str) -> None:
    refuse(MANIFEST)
    with pytest.raises(Unusable, match=reason):
        refuse(MANIFEST | change)
