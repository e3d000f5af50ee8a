"""What the roofline promises: its arithmetic, and ceilings that are measured once a host."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from _runtimes import Images, Tiny, asked, ship

from objectives import Target, read
from objectives.artifacts import load, work_of, write
from objectives.metrics.efficiency import Efficiency
from objectives.roofline import Ceilings, ceilings_of, place, renewed
from objectives.runtimes.null import Null
from objectives.work import Work
from spaces import Encoding

ROOF = Ceilings(
    operations={"float32": 100.0, "int8": 400.0, "bfloat16": 3.0},
    bytes={10: 50.0, 40: 60.0, 160: 20.0},
)
CONVOLUTIONS = 12 * 12 * 9 * (3 * 16 + 16 * 16)
WEIGHTS, OTHERS = 9 * (3 * 16 + 16 * 16) + 16 * 6, 16 + 16 + 16 + 16 + 6
"""Values of the weights of products of Images, and of its biases and its normalisation."""


@pytest.mark.parametrize(
    ("operations", "size", "precision", "seconds"),
    [
        (1000, 10, "float32", 10.0),  # arithmetic takes longer than 10 / 60
        (1000, 10, "int8", 2.5),
        (1000, 10, "bfloat16", 10.0),  # slower here than float32, which can replace it
        (10, 120, "float32", 2.0),  # traffic, at the rate of 40 bytes: 160 do not fit
        (10, 1600, "float32", 80.0),
    ],
)
def test_the_longer_one_of_arithmetic_and_traffic_counts(
    operations: int, size: int, precision: str, seconds: float
) -> None:
    work = Work(operations=operations, bytes=size, precision=precision)
    assert ROOF.seconds(work) == pytest.approx(seconds)


def test_on_a_gpu_float32_may_be_rounded_to_tf32() -> None:
    roof = dataclasses.replace(ROOF, operations={"float32": 50.0, "tf32": 400.0, "int8": 900.0})
    assert roof.peak("float32") == 400.0
    assert roof.peak("float16") == 50.0


def test_ceilings_survive_json_and_keep_the_highest_rates() -> None:
    assert Ceilings.from_json(ROOF.to_json()) == ROOF
    faster = dataclasses.replace(ROOF, operations=dict.fromkeys(ROOF.operations, 200.0))
    both = ROOF.highest(faster)
    assert both.operations == {"float32": 200.0, "int8": 400.0, "bfloat16": 200.0}
    assert both.bytes == ROOF.bytes


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let ceilings be measured within milliseconds, and be kept for one test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in {"SIDES": (32, 64), "WORKING_SETS": (2**16, 2**18), "SECONDS": 0.0}.items():
        monkeypatch.setattr(f"objectives.roofline.rates.{name}", value)
    ceilings_of.cache_clear()
    yield
    ceilings_of.cache_clear()


def test_ceilings_of_this_host(quick: None) -> None:
    ceilings = ceilings_of(Target())
    assert {"float32", "bfloat16", "float16"} <= set(ceilings.operations)
    assert all(rate > 0 for rate in (*ceilings.operations.values(), *ceilings.bytes.values()))
    assert place(Target()).is_file()
    assert place(Target(threads=2)) != place(Target())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ceilings_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ceilings = renewed(Target(device="cuda"))
    rates = {name: f"{rate / 1e12:.1f} Top/s" for name, rate in ceilings.operations.items()}
    print(rates, {size: f"{rate / 1e9:.0f} GB/s" for size, rate in ceilings.bytes.items()})
    assert ceilings.peak("float16") >= ceilings.operations["float32"]
    assert set(ceilings.operations) >= {"float32", "tf32", "bfloat16", "float16"}


def test_a_busy_host_is_measured_again_later(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    module, rates, now = "objectives.roofline.stored", iter([1.0, 3.0, 2.0]), [1000.0]
    monkeypatch.setattr(f"{module}.measure", lambda target: _flat(next(rates)))
    loads = iter([0.5, 0.5, 0.0])
    monkeypatch.setattr(f"{module}.others", lambda: next(loads))
    monkeypatch.setattr("time.time", lambda: now[0])
    assert renewed(Target()) == _flat(1.0)
    assert renewed(Target()) == _flat(1.0)  # a moment later the host is as busy
    now[0] += 3600
    assert renewed(Target()) == _flat(3.0)
    now[0] += 3600
    assert renewed(Target()) == _flat(3.0)  # the highest rate is kept
    now[0] += 3600
    assert renewed(Target()) == _flat(3.0)  # the host was idle: no further measurement


def _flat(rate: float) -> Ceilings:
    return Ceilings(operations={"float32": rate}, bytes={1024: rate})


@pytest.mark.parametrize(
    ("encoding", "precision", "weights"),
    [
        (Encoding(), "float32", 4 * (WEIGHTS + OTHERS)),
        (Encoding(dtype="bfloat16"), "bfloat16", 2 * (WEIGHTS + OTHERS)),
        (Encoding(weight_bits=8), "float32", WEIGHTS + 4 * OTHERS),
        (Encoding(weight_bits=8, activation_bits=8), "int8", WEIGHTS + 4 * OTHERS),
    ],
)
def test_work_of_an_artifact(
    tmp_path: Path, encoding: Encoding, precision: str, weights: int
) -> None:
    target = Target(batch_size=2)
    work = work_of(asked(Tiny(Images), tmp_path, encoding, target))
    assert work.operations == 2 * 2 * (CONVOLUTIONS + 16 * 6)
    assert work.precision == precision
    assert work.bytes == weights + 4 * 2 * (3 * 12 * 12 + 6)


def test_a_loaded_program_knows_its_work(tmp_path: Path) -> None:
    task = Tiny(Images)
    export = asked(task, tmp_path, Encoding(), Target(batch_size=2))
    write(tmp_path / "artifact", "null", Null(), export, {})
    with load(tmp_path / "artifact", Null(), task) as program:
        assert program.work == work_of(export)


def test_efficiency_is_the_share_of_the_time_that_the_roofline_allows(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("objectives.metrics.efficiency.ceilings_of", lambda target: ROOF)
    with ship(Null(), Tiny(Images), tmp_path / "a", target=Target(batch_size=2)) as program:
        program.work = Work(operations=1000, bytes=10, precision="float32")
        monkeypatch.setattr(program, "seconds", lambda feed: 40.0)
        shares = Efficiency().observe(program, [None], 0.0)
    assert shares == pytest.approx([0.25])


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (None, "not counted"),
        (Work(operations=0, bytes=1, precision="float32"), "no products"),
        (
            Work(operations=1, bytes=1, precision="float32", uncounted=("aten::_trilinear",)),
            "cannot be counted: aten::_trilinear",
        ),
    ],
)
def test_efficiency_without_known_operations_is_refused(
    work: Work | None, reason: str, tmp_path: Path
) -> None:
    with ship(Null(), Tiny(Images), tmp_path / "a", target=Target(batch_size=2)) as program:
        program.work = work
        with pytest.raises(ValueError, match=reason):
            Efficiency().measure(program, read(Tiny(Images), "validation"))
