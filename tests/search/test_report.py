"""What the report promises: self-contained, escaped, and the same points everywhere."""

import dataclasses
import io
import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from _examples import AXES, LATENCY, NEUTRAL, SIZE, SPACE, measured, record, study, summary
from matplotlib.text import Text

from objectives import Direction
from objectives.metrics.accuracy import Accuracy
from objectives.metrics.cost import Cost
from objectives.metrics.memory import Memory
from objectives.metrics.throughput import Throughput
from search.experiment.reading import space_from
from search.records import Axis, Facts, front
from search.reporting import charts, html, roofline
from search.reporting.console import front_table
from search.reporting.frame import _safe, front_frame
from search.reporting.html_tables import members
from search.reporting.layout import axis_ranges, plane_of, plotted, staircase, ticks
from search.reporting.png import draw, picture
from search.reporting.wording import headline, quantity, title
from spaces import Stage, Technique, axis, choice

LOSSES = {"before": 1.0, "after": 2.0}
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    html.write(folder, summary())
    return folder


def test_files(written):
    names = {p.name for p in written.iterdir()}
    assert names == {"report.html", "pareto.png", "front.csv", "front.json"}
    assert (written / "pareto.png").stat().st_size > 10_000


def test_page_needs_no_network(written):
    page = (written / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)\s*=", _without_scripts(page))
    assert not re.search(r"<script[^>]+src", page)
    assert "default-src 'none'" in page


def _without_scripts(page):
    return re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)


def test_every_text_from_outside_is_escaped():
    evil = [
        dataclasses.replace(
            r, runtime=EVIL, point={EVIL: EVIL, **r.point}, note=EVIL, reason=r.reason and EVIL
        )
        for r in study()
    ]
    axes = (*AXES[:2], dataclasses.replace(SIZE))
    page = html.render(
        summary(
            tuple(evil), name=EVIL, goal=EVIL, command=EVIL, run_folder=EVIL, axes=axes,
            limits={EVIL: EVIL}, environment={EVIL: EVIL},
        )
    )  # fmt: skip
    assert "<img src=x" not in page
    assert "alert(2)</script>" not in page
    assert "&lt;img src=x" in page


def test_same_points_in_page_picture_and_table(written, tmp_path):
    told = summary()
    figure = charts.tradeoffs(told)
    by_role: dict[str, int] = {}
    for trace in figure.data:
        if trace.meta:
            by_role[trace.meta] = by_role.get(trace.meta, 0) + len(trace.x)
    assert sum(by_role.values()) == len(plotted(told)) == draw(told, tmp_path / "a.png")
    table = pd.read_csv(written / "front.csv")
    data = json.loads((written / "front.json").read_text())
    assert len(table) == len(data["front"]) == len(told.front) == by_role["front"]
    page = (written / "report.html").read_text()
    assert page.count('<tr class="member">') == len(told.front)
    assert page.count('<tr class="baseline">') == 1


def test_reasons_are_listed(written):
    page = (written / "report.html").read_text()
    for text in ("out of memory", "no 4-bit kernels", "dominated by trial 9"):
        assert text in page


def test_what_is_to_be_known_of_a_member_stands_beside_it():
    told = "1 of 2 sets of units were left whole."
    page = html.render(summary(tuple(dataclasses.replace(r, note=told) for r in study())))
    assert page.count(f"<small>{told}</small>") == page.count('<tr class="member">') + 1


def test_unconfirmed_front_says_so():
    assert "NOT been measured again" in html.render(summary(confirmed=False))
    assert "NOT been measured again" not in html.render(summary())


def test_front_json_is_the_contract(written):
    data = json.loads((written / "front.json").read_text())
    assert data["baseline"]["trial"] == 0
    member = data["front"][0]
    assert {"trial", "point", "measurements", "test", "runtime", "artifact"} <= set(member)


def test_the_size_is_told_where_it_is_no_objective(tmp_path):
    sizes = {r.trial: r.measurements["size"] for r in study() if "size" in r.measurements}
    two = tuple(dataclasses.replace(r, facts=_with_size(r, sizes.get(r.trial))) for r in study())
    shown = summary(two, axes=AXES[:2])
    html.write(tmp_path, shown)
    data = json.loads((tmp_path / "front.json").read_text())
    assert data["front"]
    for member in (data["baseline"], *data["front"]):
        told = member["measurements"]["size"]
        assert (told["value"], told["unit"]) == (sizes[member["trial"]].value, "bytes")
    page = (tmp_path / "report.html").read_text()
    assert '<th class="number">Size</th>' in page
    member = next(r for r in shown.front if r.facts.size < shown.baseline.facts.size)
    assert "x smaller" in charts.hover(member, shown)
    assert "size_bytes" in (tmp_path / "front.csv").read_text().splitlines()[0]
    assert front_table(shown).splitlines()[0].split()[4] == "size"
    assert "smallest" not in shown.picked
    three = summary(two)
    assert front_table(three).splitlines()[0].count("size") == 1
    assert html.render(three).count('<th class="number">Size</th>') == 1


def _with_size(member, size):
    return dataclasses.replace(member.facts, size=int(size.value) if size else None)


@pytest.mark.parametrize("cell", ["=cmd()", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(cell):
    member = record(1, 0.9, 1.0, 10, runtime=cell, point={"prune.channels.ratio": 0.5})
    told = summary((record(0, 0.8, 2.0, 20), member))
    text = front_frame(told).to_csv(index=False)
    assert pd.read_csv(io.StringIO(text))["runtime"].tolist() == [f"'{cell}"]
    assert _safe("-") == "'-"


def test_nothing_satisfied_tells_the_nearest():
    records = tuple(dataclasses.replace(r, limits={"latency.most": 1.0}) for r in study()[:5])
    told = summary(records)
    assert not told.front
    assert headline(told)[0] == "No trial satisfies every limit: 5 were measured."
    assert "misses latency.most by 1.00" in headline(told)[1]
    assert "No trial satisfies every limit" in html.render(told)


def test_only_failures_still_make_a_page(tmp_path):
    failed = record(0, state="failed", reason="no compiler")
    paths = html.write(tmp_path, summary((failed,)))
    assert "no compiler" in paths[0].read_text()
    assert not (tmp_path / "pareto.png").exists()


@pytest.mark.parametrize("corner", [(0.60, 0.88), (2.74, 0.88), (2.74, 0.84), (0.60, 0.84)])
def test_names_in_the_picture_cover_neither_each_other_nor_leave_it(corner):
    latency, accuracy = corner
    far = record(0, 1.724 - accuracy, 3.34 - latency, 2e6)  # at the opposite corner
    spread = ((0.000, 0.000, 5e5), (0.001, 0.001, 4e5), (0.002, 0.002, 3e5), (0.003, 0.0, 2e5))
    close = [record(i, accuracy + a, latency + t, s) for i, (t, a, s) in enumerate(spread, 1)]
    drawn = picture(summary((far, *close), front=tuple(close), baseline=far))
    drawn.canvas.draw()
    (axes,) = drawn.axes
    names = [text for text in axes.texts if "\n" in text.get_text()]
    assert len(names) >= 3
    boxes = [Text.get_window_extent(name, drawn.canvas.get_renderer()) for name in names]
    assert all(axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max) for box in boxes)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_objectives(count, tmp_path):
    throughput = Axis("throughput", Direction.MAXIMIZE, "samples/s", positive=True)
    memory = Axis("memory", Direction.MINIMIZE, "bytes", positive=True)
    axes = (memory, throughput, LATENCY, AXES[0])[:count]
    records = []
    for i, old in enumerate(study()[:6]):
        more = {"memory": measured(1e6 + 1e5 * i, "bytes")}
        more["throughput"] = measured(100 + i, "samples/s")
        records.append(dataclasses.replace(old, measurements={**old.measurements, **more}))
    told = summary(tuple(records), axes=axes, front=tuple(front(records, axes)), bounds={})
    assert len(html.write(tmp_path, told)) == 4
    assert told.front


@pytest.mark.parametrize(
    "names", [("accuracy", "throughput", "cost"), ("throughput", "cost", "memory"), ("cost",)]
)
def test_fronts_need_no_latency(tmp_path, names):
    kinds = {"accuracy": Accuracy(), "throughput": Throughput(), "cost": Cost(), "memory": Memory()}
    axes = tuple(Axis.of(name, kinds[name]) for name in names)
    records = []
    for i, old in enumerate(study()[:9]):
        rate = 900.0 + 70 * (i * 5 % 9)
        values = {"accuracy": 0.9 - 0.01 * i, "throughput": rate, "cost": (1 + i % 2) * 1000 / rate}
        values["memory"] = 1e6 * (10 - i)
        found = {a.name: measured(values[a.name], a.unit, 0.01 * values[a.name]) for a in axes}
        records.append(dataclasses.replace(old, measurements=found, limits={}))
    members = tuple(front(records, axes))
    told = summary(tuple(records), axes=axes, front=members, bounds={}, goal="", limits={})
    assert len(html.write(tmp_path, told)) == 4
    table = pd.read_csv(tmp_path / "front.csv")
    assert len(table) == len(members) > 0
    assert {f"{a.name}_{a.unit}" for a in axes} <= set(table.columns)
    assert set(told.picked) >= {"knee"} if len(axes) > 1 else {"cheapest"}
    printed = front_table(told)
    assert all(name in printed for name in names)
    assert title(told)


def test_plane_takes_quality_upwards_and_latency_across():
    here = plane_of(AXES)
    assert (here.x, here.y, here.size) == (LATENCY, AXES[0], SIZE)


def test_outline_leaves_out_members_that_are_there_for_the_third_axis():
    members = [record(1, 0.9, 2.0, 9), record(2, 0.8, 1.0, 9), record(3, 0.7, 3.0, 1)]
    assert staircase(plane_of(AXES), members) == [(1.0, 0.8), (2.0, 0.9)]


def test_intervals_of_the_front_lie_in_the_frame():
    wide = [
        dataclasses.replace(r, measurements={k: widened(m) for k, m in r.measurements.items()})
        for r in study()
    ]
    told = summary(tuple(wide))
    here = plane_of(told.axes)
    (left, right), (low, high), _ = axis_ranges(told, here)
    assert told.front
    for member in told.front:
        across, up = (member.measurements[axis.name] for axis in (here.x, here.y))
        assert left < across.low < across.high < right
        assert low < up.low < up.high < high


def widened(measurement):
    low, high = 0.8 * measurement.value, 1.2 * measurement.value
    return dataclasses.replace(measurement, low=low, high=high)


def test_ticks_are_round_and_few():
    assert ticks(0.23, 3.3) == [0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0]
    assert ticks(0.1, 900) == [0.1, 1.0, 10.0, 100.0]


def test_short_tells_only_what_is_changed():
    point = {
        **NEUTRAL,
        "prune.channels.ratio": 0.3,
        "quantize.integer.weight_bits": 8,
        "quantize.integer.activation_bits": 8,
        "distill.logits.steps": 200,
        "distill.logits.temperature": 4.0,
        "precision.compute.dtype": "bfloat16",
        "deploy.runtime.name": "openvino",
    }
    assert SPACE.short(point) == "prune 0.3 · 8/8 bit · T4 200 steps · bfloat16"
    assert SPACE.short(NEUTRAL) == "unchanged"
    made = record(1, 0.9, 1.0, 10, point=point, facts=Facts(recovery={"kept": False} | LOSSES))
    assert summary().short(made).endswith("200 steps · bfloat16 (taken back)")
    assert SPACE.short({"quantize.integer.weight_bits": 4}) == "4/32 bit"
    space, _ = space_from({"prune.layers": {}, "placement.devices": {}}, Path())
    assert space.short({"prune.layers.count": 2, "placement.devices.count": 4}) == (
        "depth -2 · 4 devices"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Idea(Technique):
    """A technique that says nothing of how its fields read."""

    stage = Stage.ENCODE
    strength: float = axis(0.0, choice(0.0, 2.5), unit="times")
    fast: bool = axis(False, choice(False, True), unit="flag")


def test_fields_read_by_their_names_where_nothing_else_is_said():
    assert Idea(strength=2.5, fast=True).short(("strength", "fast")) == "strength 2.5 fast"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1_120_000, "bytes", "1.12 MB"), (0.4871, "ms", "0.487 ms"), (12.34, "ms", "12.3 ms"),
     (0.8814, "score", "0.881"), (512, "bytes", "512 B"), (2e-5, "s", "2e-05 s")],
)  # fmt: skip
def test_quantities_read_well(value, unit, text):
    assert quantity(value, unit) == text


def test_title_tells_the_knee():
    records = (record(0, 0.9, 8.0, 1000), record(1, 0.9, 2.0, 500, runtime="openvino"))
    assert title(summary(records)) == "4.00x faster, 2.00x smaller and accuracy unchanged"


WORK = {"operations": 80_000_000, "bytes": 1_000_000, "precision": "float32", "uncounted": []}
CEILINGS = {"operations": 100e9, "bytes": 40e9}


def rated(trial, latency, **facts):
    """Return a record of which operations, bytes and ceilings are known."""
    known = Facts(**{"work": WORK, "ceilings": CEILINGS, **facts})
    return record(trial, 0.9 - trial / 100, latency, 10**6 - trial, facts=known)


def test_the_roofline_shows_shares_of_what_the_host_allows():
    baseline, front_member = rated(0, 8.0), rated(1, 1.6)
    told = summary((baseline, front_member))
    points = roofline.attained(told)
    assert [p.share for p in points] == pytest.approx([0.1, 0.5])
    assert points[0].rate == pytest.approx(10e9)
    names = {trace.name for trace in roofline.chart(told, points).data if trace.mode == "lines"}
    assert names == {"float32: 100 Gop/s, 40.0 GB/s"}
    page = html.render(told)
    assert "1: 50%" in page
    assert "Above its ceiling" not in page


def test_traffic_bounds_the_share_of_little_arithmetic():
    few = {**WORK, "operations": 1_000_000}  # one operation a byte: 40 billion a second at most
    (point,) = roofline.attained(summary((rated(0, 0.1, work=few),)))
    assert point.share == pytest.approx(10e9 / 40e9)


def test_devices_that_share_a_batch_have_a_ceiling_together():
    both = {"devices": 2, "strategy": "tensor"}
    replicas = {"devices": 2, "strategy": "data"}
    shares = [
        roofline.attained(summary((rated(0, 1.6, placement=placement),)))[0].share
        for placement in (both, replicas)
    ]
    assert shares == pytest.approx([0.25, 0.5])


def test_the_roofline_shows_the_median_where_the_latency_is_a_tail():
    told = summary((rated(0, 8.0, percentiles={"50": 1.6, "90": 6.0}),))
    assert roofline.attained(told)[0].share == pytest.approx(0.5)


def test_a_share_above_one_is_told():
    told = summary((rated(0, 8.0), rated(1, 0.4)))
    assert "Above its ceiling: trial 1 (200%)." in html.render(told)


def test_without_known_work_there_is_no_roofline():
    assert "ceilings" not in html.render(summary())


def test_the_front_shows_percentiles_that_have_enough_runs():
    known = {"50": 1.7, "90": 1.9}
    rare = Facts(percentiles=known)
    told = summary((record(0, 0.9, 8.0, 10**6), record(1, 0.9, 1.6, 10**6, facts=rare)))
    table = members(told)
    assert [f">{head}<" in table for head in ("Median", "p90", "p99")] == [True] * 3
    assert '>1.70 ms</td><td class="number">1.90 ms</td><td class="number">-</td>' in table
    assert "Median" not in members(summary())
