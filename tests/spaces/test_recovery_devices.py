"""Recovery training on several devices: the result of one, and no process left behind."""

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from _blobs import Dicts, Failing, Images, Masked, damaged
from torch import nn

from spaces import Infeasible, Recovery, Task
from spaces.quantization.activations import Activations
from spaces.training.batches import parts
from spaces.training.distributed.launcher import Broken, sharing
from spaces.training.recovery import Diverged, recover
from spaces.training.sync_batchnorm import batches_joined
from spaces.training.world import World
from spaces.wire import decode, encode

STEPS = 20

pytestmark = pytest.mark.slow  # processes that import the libraries anew


def curve(
    task: Task, recovery: Recovery, student: nn.Module | None = None
) -> tuple[list[float], nn.Module]:
    """The losses of a recovery, and the model."""
    reference, losses = task.model(), []
    model = copy.deepcopy(student) if student else damaged(reference)
    reference.to(next(model.parameters()).device)
    told = lambda step, steps, loss: losses.append(loss)  # noqa: E731
    return losses, recover(model, reference, task, recovery, seed=0, progress=told)


def assert_same(
    task: Task, recovery: Recovery, student: nn.Module | None = None, **several: object
) -> nn.Module:
    alone, expected = curve(task, recovery, student)
    several = {"devices": 2, **several}
    together, model = curve(task, dataclasses.replace(recovery, **several), student)
    assert len(together) == recovery.steps
    assert together == pytest.approx(alone, abs=1e-3)
    assert together[-1] != pytest.approx(together[0], abs=1e-3)
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[name].float(), tensor.float(), atol=2e-3), name
    return model


@pytest.mark.slow
class TestTheResultIsThatOfOneDevice:
    @pytest.mark.ci
    def test_with_batch_normalisation_masks_and_uneven_batches(self) -> None:
        # 150 samples are three batches of 45 (23 and 22 a device); the rest of 15 is left out.
        recipe = Recovery(
            steps=STEPS,
            batch_size=45,
            teacher_weight=0.5,
            temperature=2.0,
            constraints=(Masked(names=("all",)),),
        )
        model = assert_same(Images(), recipe)
        zeros = [float((p == 0).float().mean()) for p in model.parameters() if p.dim() > 1]
        assert all(share >= 0.5 for share in zeros)

    def test_with_dicts_unused_weights_frozen_weights_and_features(self) -> None:
        student = damaged(Dicts().model())
        student.embed.requires_grad_(False)
        recipe = Recovery(
            steps=STEPS, batch_size=50, teacher_weight=0.5, feature_weight=0.1, hard_labels=True
        )
        model = assert_same(Dicts(), recipe, student)
        assert torch.equal(model.embed.weight, student.embed.weight)
        assert torch.equal(model.spare.weight, student.spare.weight)

    @pytest.mark.ci
    @pytest.mark.parametrize("task", [Dicts(), Images()])
    def test_sharded(self, task: Task) -> None:
        recipe = Recovery(steps=STEPS, batch_size=45, teacher_weight=0.5, feature_weight=0.1)
        assert_same(task, recipe, sharding="shard")

    @pytest.mark.parametrize("sharding", ["replicate", "shard"])
    def test_on_four_devices(self, sharding: str) -> None:
        recipe = Recovery(steps=STEPS, batch_size=45, teacher_weight=0.5)
        assert_same(Images(), recipe, devices=4, sharding=sharding)

    @pytest.mark.parametrize("sharding", ["replicate", "shard"])
    def test_with_rounded_activations(self, sharding: str) -> None:
        recipe = Recovery(steps=STEPS, batch_size=45, constraints=(Activations(),))
        assert_same(Images(), recipe, sharding=sharding)


@pytest.mark.slow
class TestAFailureEndsAll:
    RECIPE = Recovery(steps=3, batch_size=32, devices=2)

    @pytest.mark.ci
    @pytest.mark.parametrize(
        ("deed", "kind", "message"),
        [
            ("die", Broken, "process 1 was killed by signal 9"),
            ("raise", Broken, "process 1 failed: KeyError: 'no such label'"),
            ("diverge", Diverged, "before the first update the loss is nan"),
        ],
    )
    def test_with_one_reason(self, deed: str, kind: type[Exception], message: str) -> None:
        before = len(psutil.Process().children(recursive=True))
        with pytest.raises(kind, match=message):
            curve(Failing(deed=deed), self.RECIPE)
        assert len(psutil.Process().children(recursive=True)) == before

    @pytest.mark.ci
    def test_processes_die_with_their_parent(self, tmp_path: Path) -> None:
        script = tmp_path / "train.py"
        script.write_text(
            "from _blobs import Images\n"
            "from spaces import Recovery\n"
            "from spaces.training.recovery import recover\n"
            "task = Images()\n"
            "recipe = Recovery(steps=10**9, batch_size=32, devices=2)\n"
            "told = lambda *step: print('step', flush=True)\n"
            "recover(task.model(), task.model(), task, recipe, seed=0, progress=told)\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        parent = subprocess.Popen(
            [sys.executable, str(script)], stdout=subprocess.PIPE, env=environment
        )
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"step\n"
        ranks = psutil.Process(parent.pid).children(recursive=True)
        assert len(ranks) == 2
        parent.send_signal(signal.SIGKILL)
        parent.stdout.close()
        parent.wait()
        deadline = time.monotonic() + 10
        while any(_alive(r) for r in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(_alive(r) for r in ranks)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class TestBeforeAnythingIsStarted:
    @pytest.mark.ci
    def test_a_task_that_cannot_be_imported_is_a_reason(self) -> None:
        @dataclasses.dataclass(frozen=True)
        class Local(Images):
            pass

        with pytest.raises(Infeasible, match="cannot import it"):
            curve(Local(), Recovery(steps=1, devices=2, batch_size=4))

    @pytest.mark.ci
    def test_a_model_is_sharded_where_it_does_not_fit(self) -> None:
        model = Dicts().model()
        small = sharing(model, model, Recovery(steps=1, devices=2, teacher_weight=1.0), "cpu")
        assert not small.sharded
        weights = sum(p.numel() for p in model.parameters())
        assert small.needed == weights * (4 + 4 + 8 + 4)  # AdamW and a teacher
        with torch.device("meta"):
            large = nn.Linear(small.room // 64, 64)
        assert sharing(large, model, Recovery(steps=1, devices=2), "cpu").sharded

    @pytest.mark.ci
    @pytest.mark.parametrize(
        ("asked", "reason"),
        [({"constraints": (Masked(),)}, "masks and grids"), ({"dtype": "float16"}, "float16")],
    )
    def test_what_a_sharded_model_cannot_keep_to_is_a_reason(
        self, asked: dict[str, object], reason: str
    ) -> None:
        model = Images().model()
        recipe = Recovery(steps=1, devices=2, sharding="shard", **asked)  # type: ignore[arg-type]
        with pytest.raises(Infeasible, match=reason):
            sharing(model, model, recipe, "cpu")


class TestParts:
    def test_are_the_rows_of_one_stream_whatever_else_is_drawn(self) -> None:
        task, cpu = Images(), torch.device("cpu")
        streams = [parts(task, 45, cpu, rank, 2) for rank in range(2)]
        torch.manual_seed(7)
        whole = [next(parts(task, 45, cpu, 0, 1)) for _ in range(1)]
        halves = []
        for stream in streams:
            torch.manual_seed(7)
            halves.append([next(stream), torch.rand(99), next(stream)])
        (a, _, c), (b, _, d) = halves
        assert torch.equal(torch.cat([a.inputs, b.inputs]), whole[0].inputs)
        assert (len(a.inputs), len(b.inputs)) == (22, 23)
        assert a.share + b.share == 1.0
        assert not torch.equal(c.inputs, d.inputs[: len(c.inputs)])

    @pytest.mark.ci
    def test_too_few_samples_for_the_devices_are_a_reason(self) -> None:
        with pytest.raises(Infeasible, match="3 samples cannot be shared by 4 devices"):
            next(parts(Images(samples=3), 8, torch.device("cpu"), 0, 4))


def test_plain_data_comes_back_as_it_was() -> None:
    recipe = Recovery(steps=3, learning_rate=0.5, constraints=(Masked(names=("a", "b")),))
    assert decode(encode(recipe)) == recipe
    assert decode(encode(Images(samples=9))) == Images(samples=9)
    with pytest.raises(TypeError, match="cannot hand a Tensor"):
        encode((torch.zeros(1),))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/g", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_an_optimizer_moves_a_sharded_model_through_plain_tensors() -> None:
    world = World(sharded=True)
    model = world.shard(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.device("cpu"))
    model(torch.rand(5, 4)).square().mean().backward()
    weights = list(model.parameters())
    parts = [world.part(weight) for weight in weights]
    gradients = [world.gathered(w.grad).clone() for w in weights if w.grad is not None]
    world.hand_over(weights, parts)
    assert [type(part) for part in parts] == 4 * [torch.Tensor]
    assert all(weight.grad is None for weight in weights)
    for part, gradient in zip(parts, gradients, strict=True):
        assert part.grad is not None
        assert torch.equal(part.grad, gradient)
    before = [part.detach().clone() for part in parts]
    torch.optim.AdamW(parts, lr=0.1, fused=True).step()
    for weight, part, old in zip(weights, parts, before, strict=True):
        assert torch.equal(world.gathered(weight), part)
        assert not torch.equal(part, old)


@pytest.mark.usefixtures("group")
class TestBatchNormalisation:
    @pytest.mark.ci
    @pytest.mark.parametrize("momentum", [0.1, None])
    @pytest.mark.parametrize("affine", [True, False])
    def test_alone_is_the_ordinary_one(self, momentum: float | None, affine: bool) -> None:
        torch.manual_seed(0)
        plain = nn.BatchNorm2d(3, momentum=momentum, affine=affine)
        joined = copy.deepcopy(plain)
        inputs = [(5 + 2 * torch.randn(6, 3, 4, 4)).requires_grad_() for _ in range(2)]
        inputs[1].data.copy_(inputs[0])
        slope = torch.randn(6, 3, 4, 4)
        for norm, x in ((plain, inputs[0]), (joined, inputs[1])):
            with batches_joined(norm) if norm is joined else torch.enable_grad():
                (norm(x) * slope).sum().backward()
        pairs = [(inputs[0].grad, inputs[1].grad)]
        pairs += zip(plain.state_dict().values(), joined.state_dict().values(), strict=True)
        weights = zip(plain.parameters(), joined.parameters(), strict=True)
        pairs += [(p.grad, q.grad) for p, q in weights]
        for expected, found in pairs:
            assert torch.allclose(expected.float(), found.float(), atol=1e-5)

    @pytest.mark.ci
    def test_evaluation_is_left_alone_and_so_is_the_module(self) -> None:
        norm = nn.BatchNorm1d(3).eval()
        x = torch.randn(4, 3)
        with batches_joined(norm):
            assert torch.equal(norm(x), nn.BatchNorm1d(3).eval()(x))
        assert "forward" not in vars(norm)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
class TestOnSeveralGpus:
    """Loss curves within 1e-3 of those of one GPU, over 20 steps in float32."""

    @pytest.mark.parametrize("devices", [2, 4])
    @pytest.mark.parametrize("sharding", ["replicate", "shard"])
    @pytest.mark.parametrize("task", [Images(), Dicts()])
    def test_the_result_is_that_of_one(self, task: Task, sharding: str, devices: int) -> None:
        if torch.cuda.device_count() < devices:
            pytest.skip(f"needs {devices} CUDA devices")
        recipe = Recovery(
            steps=STEPS, batch_size=45, teacher_weight=0.5, feature_weight=0.1, dtype="float32"
        )
        model = damaged(task.model()).cuda()
        assert_same(task, recipe, model, sharding=sharding, devices=devices)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_mixed_precision_trains(self, dtype: str) -> None:
        recipe = Recovery(steps=STEPS, batch_size=45, teacher_weight=0.5, dtype=dtype, devices=2)
        losses, _ = curve(Images(), recipe, damaged(Images().model()).cuda())
        assert losses[-1] < losses[0]
