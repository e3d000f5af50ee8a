"""An artifact of PyTorch, loaded in a plain way, with its inputs."""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Call = Callable[[], Any]


def arguments(description: str) -> argparse.Namespace:
    """Return the command line's arguments, and set the number of threads."""
    parser = argparse.ArgumentParser(description=description.strip())
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--inputs", type=Path, required=True, help="folder with a NAME.npy each")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    return asked


def load(artifact: Path, inputs: Path, device: str) -> Call:
    """Return what runs one batch: the package, or the module that the user's code builds."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    dtype = _dtype(manifest["notes"]["dtype"])
    names = manifest["signature"]["input_names"]
    arrays = [torch.from_numpy(np.load(inputs / f"{name}.npy")) for name in names]
    tensors = [(t.to(dtype) if t.is_floating_point() else t).to(device) for t in arrays]
    if (artifact / "model.pt2").is_file():
        package = torch._inductor.aoti_load_package(str(artifact / "model.pt2"))
        return functools.partial(package, *tensors)
    return _module(artifact, manifest, tensors, device)


def _dtype(name: str) -> torch.dtype:
    """Return the type of inputs; a model whose products are in float8 takes bfloat16."""
    found = getattr(torch, "bfloat16" if name == "float8" else name)
    assert isinstance(found, torch.dtype)
    return found


def _module(artifact: Path, manifest: Any, tensors: list[Tensor], device: str) -> Call:
    # late: a package needs nothing of the project, and this takes seconds
    from objectives import Runtime
    from search import catalogue
    from search.measuring import Subject
    from spaces.modules import call, plain, unflatten

    subject = Subject.recorded(artifact, None)
    runtime = catalogue.find("runtime", manifest["runtime"], Runtime, subject.folder)()
    module = runtime.module(artifact, subject.task, manifest["notes"]).to(device)
    inputs = plain(unflatten(tensors, manifest["signature"]["inputs"]))
    return functools.partial(call, module, inputs)
