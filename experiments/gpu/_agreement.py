"""Data for networks of realistic size and random weights: what counts is agreement with them.

Trained weights of this size are not part of the project. The label of a random input is the class
that the unchanged network gives it, so its accuracy is 1 and a candidate's is how often it agrees.
Weights, inputs and labels are made once and kept in the folder for temporary files, as a user's
checkpoint and data would be: making them again takes longer than a trial. A changed source makes
them anew.
"""

import hashlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SAMPLES = {"train": 256, "validation": 128, "test": 128}


def remembered(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that `make` makes, with the same random weights at every call."""

    def weights() -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return {k: t.contiguous() for k, t in make().state_dict().items()}

    with torch.device("meta"):
        network = make()
    network.load_state_dict(_kept(name, make, weights), assign=True)
    return network.requires_grad_(True).eval()


def labelled(
    name: str, model: Callable[[], nn.Module], shape: tuple[int, ...], split: str, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of random inputs (batch, *shape) with the classes that a network gives them.

    Images are smooth: all those of independent pixels look alike to a network.
    """

    def samples() -> dict[str, Tensor]:
        inputs = _inputs(SAMPLES[split], shape, torch.Generator().manual_seed(len(split)))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = model().to(device)
        with torch.inference_mode():
            parts = [network(part.to(device)).argmax(-1).cpu() for part in inputs.split(32)]
        return {"inputs": inputs, "labels": torch.cat(parts)}

    kept = _kept(f"{name}-{split}", model, samples)
    inputs, targets = kept["inputs"], kept["labels"]
    yield from zip(inputs.split(batch_size), targets.split(batch_size), strict=True)


def _inputs(count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) != 3:
        return torch.randn(count, *shape, generator=generator)
    coarse = torch.randn(count, shape[0], 7, 7, generator=generator)
    return nn.functional.interpolate(coarse, shape[1:], mode="bilinear")


def _kept(
    name: str, owner: Callable[[], nn.Module], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors made before, unless this file or that of `owner` has changed since."""
    sources = [Path(__file__), Path(inspect.getfile(owner))]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    file = Path(tempfile.gettempdir()) / f"paretune-{name}-{key}.safetensors"
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            draft = Path(scratch) / file.name
            save_file(make(), draft)
            draft.replace(file)
    return load_file(file)
