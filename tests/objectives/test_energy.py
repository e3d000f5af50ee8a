"""What the objective energy promises: joules of a counter, or a reason before any trial."""

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from _runtimes import Images, Tiny, ship

from objectives import Program, Target
from objectives.host import Nvml, Rapl, Unreadable
from objectives.metrics.energy import Energy
from objectives.runtimes.null import Null

CPU, RANGE = Target(), 262_143_328_850


def zone(folder: Path, number: str, name: str, microjoules: int) -> Path:
    """Write a zone of RAPL as Linux shows it."""
    path = folder / f"intel-rapl:{number}"
    path.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", RANGE)):
        (path / file).write_text(f"{value}\n")
    return path


def set_to(path: Path, microjoules: int) -> None:
    (path / "energy_uj").write_text(str(microjoules))


def test_all_packages_count_and_their_parts_do_not(tmp_path: Path) -> None:
    packages = [zone(tmp_path, str(n), f"package-{n}", 1_000_000) for n in (0, 1)]
    parts = [zone(tmp_path, "0:0", "core", 5), zone(tmp_path, "2", "psys", 5)]
    counter = Rapl(folder=tmp_path)
    before = counter.read()
    for path in (*packages, *parts):
        set_to(path, 3_500_000)
    assert counter.joules(before, counter.read()) == pytest.approx(5.0)


def test_a_counter_that_restarted_goes_on(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", RANGE - 1_000_000)
    other = zone(tmp_path, "1", "package-1", 0)
    counter = Rapl(folder=tmp_path)
    before = counter.read()
    set_to(package, 2_000_000)
    set_to(other, 4_000_000)
    assert counter.joules(before, counter.read()) == pytest.approx(3.0 + 4.0)


def test_a_machine_without_a_counter_is_refused(tmp_path: Path) -> None:
    zone(tmp_path, "0", "psys", 5)
    reason = Energy(counters=str(tmp_path)).refuses(CPU, frozenset())
    assert reason is not None
    assert "no energy counter of its processor" in reason


def test_a_counter_for_root_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(tmp_path, "0", "package-0", 0)
    read = Path.read_text

    def refused(path: Path) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_text", refused)
    reason = Energy(counters=str(tmp_path)).refuses(CPU, frozenset())
    assert reason is not None
    assert "sudo chmod a+r" in reason


def test_a_broken_counter_is_refused(tmp_path: Path) -> None:
    (zone(tmp_path, "0", "package-0", 0) / "energy_uj").unlink()
    reason = Energy(counters=str(tmp_path)).refuses(CPU, frozenset())
    assert reason is not None
    assert "FileNotFoundError" in reason


def spending(program: Program, spend: Callable[[], None]) -> None:
    """Let a program compute 50 batches a second and spend energy on a stream of them."""

    def stream(feeds: object, seconds: float) -> list[float]:
        spend()
        return [40.0, 60.0]

    program.stream = stream  # type: ignore[method-assign]


def test_energy_is_power_over_samples_per_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = zone(tmp_path / "powercap", "0", "package-0", 0)
    clock = iter([100.0, 100.5])
    energy = Energy(counters=str(tmp_path / "powercap"))
    with ship(Null(), Tiny(Images), tmp_path / "a", target=Target(batch_size=4)) as program:
        spending(program, lambda: set_to(package, 10_000_000))
        monkeypatch.setattr("time.perf_counter", lambda: next(clock))
        joules = energy.observe(program, [None], 0.0)
    assert joules == pytest.approx([20.0 / (50 * 4)])  # 10 J in half a second, 200 samples a second


def test_a_counter_that_vanishes_fails_the_measurement(tmp_path: Path) -> None:
    energy = Energy(counters=str(tmp_path))
    with (
        ship(Null(), Tiny(Images), tmp_path / "a", target=Target(batch_size=4)) as program,
        pytest.raises(ValueError, match="no energy counter"),
    ):
        energy.observe(program, [None], 0.0)


class Driver(types.ModuleType):
    """A driver with two GPUs, of which one has no counter, in place of nvidia-ml-py."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return {"GPU-zero": 0, "GPU-one": 1}[name]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return 7_000


def test_a_gpu_counts_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Nvml().read() == {"0": 7.0}
    with pytest.raises(Unreadable, match="Not Supported"):
        Nvml(count=2).read()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-zero,GPU-one")
    assert Nvml().read() == {"GPU-zero": 7.0}


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    reason = Energy().refuses(Target(device="cuda"), frozenset())
    assert reason is not None
    assert "pip install 'paretune[energy]'" in reason


def test_other_devices_have_no_counter() -> None:
    reason = Energy().refuses(Target(device="xla"), frozenset())
    assert reason == "no energy counter of xla devices is known"
