"""Modules on disk: whatever their tensors are called, they come back as they were written."""

import copy
from pathlib import Path
from typing import cast

import pytest
import torch
from _networks import request
from torch import Tensor, nn

from objectives import Runtime
from objectives.exporting import stored_modules
from objectives.runtimes.eager import Eager
from objectives.runtimes.null import Null
from spaces import Encoding, Task
from spaces.quantization.encode import encoded


class Inner(nn.Module):
    """Holds tensors that are called like what is stored beside a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.places = nn.Parameter(torch.full((32,), 1.5)), nn.Parameter(torch.ones(32))
        self.register_buffer("s", torch.ones(32))
        self.register_parameter("0", nn.Parameter(torch.zeros(32)))
        self.weight = nn.ParameterDict({"scale": torch.ones(32), "a|s": torch.ones(32)})

    def forward(self, x: Tensor) -> Tensor:
        for name in ("scale", "places", "s"):
            x = x * getattr(self, name)
        return x * self.weight["scale"] * self.weight["a|s"] + getattr(self, "0")


class Named(nn.Module):
    """(batch, 32) -> (batch, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((32,), 0.5))
        self.norm = Inner()
        self.layers = nn.ModuleDict({"scale": nn.Linear(32, 64), "é|0 s": nn.Linear(64, 32)})
        self.sparse = nn.Linear(32, 32)
        with torch.no_grad():
            self.sparse.weight[:, 4:] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x * self.scale)
        for layer in self.layers.values():
            x = torch.relu(layer(x))
        return cast(Tensor, self.sparse(x))


class Owner:
    """The task of a model that was not edited."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Named().eval()


@pytest.mark.parametrize("runtime", [Eager(), Null()])
@pytest.mark.parametrize(
    "bits",
    [{}, {"weight_bits": 8}, {"weight_bits": 3}, {"weight_bits": 8, "activation_bits": 8}],
)
def test_tensors_may_have_any_names(tmp_path: Path, runtime: Runtime, bits: dict[str, int]) -> None:
    owner, x = Owner(), torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    export = request(owner.model(), x, tmp_path, batch=4, **bits)
    notes = runtime.export(export)
    program = runtime.load(tmp_path, export.signature, export.target, cast(Task, owner), notes)
    with torch.no_grad():
        wanted = owner.model()(x)
    error = float((program(x) - wanted).abs().max() / wanted.abs().max())
    assert error < (1e-6 if not bits else 0.3 if bits["weight_bits"] == 3 else 0.05)


@pytest.mark.parametrize("bits", [8, 3])
def test_a_stored_model_comes_back_exactly(tmp_path: Path, bits: int) -> None:
    reference = Owner().model()
    whole = encoded(copy.deepcopy(reference), None, Encoding(weight_bits=bits))
    stored_modules.write(tmp_path, reference, whole.model, ["sparse"] * (bits == 8), codes={})
    found = stored_modules.read(tmp_path, Owner().model()).model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        close = 0.01 * float(tensor.abs().max()) if name == "sparse.weight" else 0.0
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=close)
