"""The catalogue of devices: what every entry answers, and that an accelerator is one of them."""

from pathlib import Path

import pytest
import torch

from objectives import Target
from objectives.host import exclusive
from objectives.intervals import of_processes
from objectives.kernels import with_codes
from objectives.placement import limits
from objectives.runtimes.eager import Eager
from search import catalogue
from search.cli import doctor
from search.errors import BadExperiment
from search.experiment import Experiment, default_for, refusal, refusal_here
from spaces import Encoding, Placement, Plan, Recovery
from spaces.devices import HOST, Device, all_devices, device_names, device_of, on_host
from spaces.modules import seeded
from spaces.quantization import encoded

LINEAR = frozenset({"Linear"})


@pytest.fixture(params=device_names())
def device(request: pytest.FixtureRequest) -> Device:
    return device_of(request.param)


@pytest.fixture
def present(device: Device) -> Device:
    if reason := device.lacks():
        pytest.skip(reason)
    return device


class TestEveryEntry:
    def test_has_the_name_of_its_file_and_of_a_type_of_torch(self, device: Device) -> None:
        assert device.name in catalogue.names("device") == device_names()
        assert torch.device(device.name).type == device.name

    def test_has_facts_that_are_possible(self, device: Device) -> None:
        assert 0 < device.spread < 1
        assert 0 < device.shortest < 1
        assert device.step_flops > 0
        assert device.backend

    def test_says_without_being_there_whether_it_is(self, device: Device) -> None:
        reason = device.lacks()
        assert device.available() is (reason is None)
        assert reason is None or device.name in reason
        assert device.count() >= device.available()
        assert device.initialized() in (False, True)

    def test_trains_in_float32_wherever_it_is(self, device: Device) -> None:
        assert device.trains_in("float32")
        if not device.available():
            assert not device.trains_in("float8")

    def test_restores_its_generators(self, device: Device) -> None:
        torch.manual_seed(0)
        with device.fork_rng():
            first = torch.rand(3)
            torch.manual_seed(1)
        assert torch.equal(torch.rand(3), first)

    def test_is_exact_only_inside_the_block(self, device: Device) -> None:
        before = torch.backends.cudnn.allow_tf32
        with device.exact():
            pass
        assert torch.backends.cudnn.allow_tf32 == before

    def test_rounds_products_only_inside_the_block(self, device: Device) -> None:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        with device.tf32():
            pass
        after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert after == before


class TestOneThatIsHere:
    def test_computes_where_it_is_selected(self, present: Device) -> None:
        there = present.select(0)
        assert device_of(there).name == present.name
        found = torch.ones(2, 3, device=there) @ torch.ones(3, 2, device=there)
        present.synchronize()
        assert found.cpu().tolist() == [[3.0, 3.0]] * 2

    def test_times_what_it_is_given(self, present: Device) -> None:
        matrix, timer = torch.ones(64, 64, device=present.select(0)), present.timer()
        assert all(timer(lambda: matrix @ matrix) > 0 for _ in range(2))

    def test_knows_its_memory(self, present: Device) -> None:
        free, total = present.memory()
        assert 0 < free <= total
        there = present.select(0)
        peak = present.peak_memory(lambda: torch.ones(1024, device=there))
        assert (peak is None) if on_host(there) else (peak is not None and peak >= 4096)
        present.empty_cache()

    def test_says_what_it_is_and_does(self, present: Device) -> None:
        assert len(present.product_names()) == (present.count() if present.accelerator else 0)
        assert bool(present.conditions()) is bool(present.accelerator)
        assert present.native_bfloat16() in (False, True)


def test_a_device_is_named_as_torch_names_it() -> None:
    for given in ("cuda", "cuda:1", torch.device("cuda"), torch.device("cuda", 1)):
        assert device_of(given).name == "cuda"
    assert device_of(HOST).name == "cpu"
    assert [device.name for device in all_devices()] == device_names()
    known = ", ".join(device_names())
    with pytest.raises(ValueError, match=f"no device 'tpu'; use one of {known}"):
        device_of("tpu")


class TestAnotherAcceleratorIsOneFile:
    def asked(self, project: Path, device: str) -> Experiment:
        file = project / "experiment.toml"
        file.write_text(f'{file.read_text()}\n[target]\ndevice = "{device}"\n')
        return Experiment.load(file)

    def test_a_target_may_be_one(self, project: Path, tpu: type[Device]) -> None:
        assert self.asked(project, "xla").target.device == "xla"

    def test_others_are_still_unknown(self, project: Path, tpu: type[Device]) -> None:
        with pytest.raises(BadExperiment, match='must be "cpu" or "cuda" or "xla", got'):
            self.asked(project, "tpu")

    @pytest.mark.parametrize(
        ("plan", "reason"),
        [
            (Plan(runtime="eager"), "this machine has no TPU"),
            (Plan(runtime="null"), "this machine has no TPU"),
            (Plan(runtime="onnxruntime"), "onnxruntime is run on cpu only, the target is xla"),
            (Plan(runtime="inductor"), "inductor is run on cpu and cuda only, the target is xla"),
            (Plan(recovery=Recovery(steps=1, dtype="float8")), "float8 needs a CUDA GPU"),
            (Plan(recovery=Recovery(steps=1, dtype="float16")), "only emulated by this TPU"),
        ],
    )
    def test_what_it_cannot_do_is_refused_with_a_reason(
        self, project: Path, tpu: type[Device], plan: Plan, reason: str
    ) -> None:
        assert reason in str(refusal(self.asked(project, "xla"), plan, LINEAR))

    def test_eager_computes_on_it_where_it_is(
        self, project: Path, tpu: type[Device], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tpu, "here", 1)
        experiment, target = self.asked(project, "xla"), Target(device="xla")
        half = Plan(encoding=Encoding(dtype="bfloat16"), recovery=Recovery(steps=1))
        assert refusal_here(experiment, half, LINEAR) is None
        assert Eager().refuses(Encoding(weight_bits=4), target, LINEAR) is None
        eight, float8 = Encoding(weight_bits=8, activation_bits=8), Encoding(dtype="float8")
        assert "no 8-bit linear layers on xla" in str(Eager().refuses(eight, target, LINEAR))
        assert "no float8 layers on xla" in str(Eager().refuses(float8, target, LINEAR))
        two = Plan(placement=Placement(count=2))
        reason = "2 devices were asked for, this host has 1 TPU"
        assert refusal_here(experiment, two, LINEAR) == reason
        assert limits.devices(target) == 1

    def test_its_times_have_its_own_spread_and_lane(self, tpu: type[Device]) -> None:
        _, low, high = of_processes([1.0, 1.0], device="xla")
        _, least, most = of_processes([1.0, 1.0], device="cuda")
        assert low < least < most < high
        with exclusive("xla"):
            pass

    def test_an_idle_one_is_not_started_for_its_generator(self, tpu: type[Device]) -> None:
        with seeded(0):
            first = torch.rand(3)
        with seeded(0):
            assert torch.equal(torch.rand(3), first)

    def test_layers_without_kernels_there_stay_as_they_are(self, tpu: type[Device]) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)).eval()
        codes = encoded(model, None, Encoding(weight_bits=4)).codes
        assert with_codes(model.to(torch.bfloat16).to("meta"), codes) == 0

    def test_doctor_and_a_default_experiment_find_it(
        self, project: Path, tpu: type[Device], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert doctor._accelerators()["tpus"] == "none"
        assert default_for(project / "task.py").target.device == "cpu"
        monkeypatch.setattr(tpu, "here", 4)
        found = default_for(project / "task.py")
        assert found.target.device == "xla"
        assert "onnxruntime" not in found.runtime_names()
        assert found.space.dimensions()["placement.devices.count"].values() == (1, 2, 4)
