"""The points that a run of ours found, opened as plain files: front.json and its artifacts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from peers._plain import OnnxProgram, OpenvinoProgram, Program, Skipped, tensors
from torch import Tensor

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pick:
    """A record of front.json."""

    name: str
    folder: Path
    point: dict[str, Any]
    reported: dict[str, Any]
    """Value of each measurement that the run reported, those of the test split as `test.NAME`."""


class _Package:
    """An AOTInductor package; it takes and returns flat lists of tensors."""

    def __init__(self, file: Path, dtype: torch.dtype) -> None:
        self.loader = torch._inductor.aoti_load_package(str(file)).loader
        self.dtype = dtype

    def feed(self, inputs: Any) -> list[Tensor]:
        """Return the inputs in the type that the package was built for."""
        cast = (t.to(self.dtype) if t.is_floating_point() else t for t in tensors(inputs))
        return [tensor.contiguous() for tensor in cast]

    def run(self, feed: Any) -> Any:
        """Execute one batch; the loader empties the list that it is given."""
        return self.loader.boxed_run(list(feed))

    def read(self, raw: Any) -> Tensor:
        """Return the first output."""
        return torch.as_tensor(raw[0]).float().clone()


def picks(run: Path) -> list[Pick]:
    """Return the baseline and the front of a run, each artifact once."""
    content = json.loads((run / "front.json").read_text())
    records = [content["baseline"], *content["front"]]
    kept = {r["artifact"]: r for r in records if r and r.get("artifact")}
    return [_pick(run, record) for record in kept.values()]


def _pick(run: Path, record: dict[str, Any]) -> Pick:
    values = {name: m["value"] for name, m in record["measurements"].items()}
    tested = {f"test.{name}": m["value"] for name, m in (record.get("test") or {}).items()}
    return Pick(
        name=f"trial {record['trial']}, {_short(record)}",
        folder=run / record["artifact"],
        point=record["point"],
        reported=values | tested,
    )


def _short(record: dict[str, Any]) -> str:
    """Return the point in a few words: its runtime and what is not float32 and whole."""
    words = [record["runtime"]]
    point = {name.rpartition(".")[2]: value for name, value in record["point"].items()}
    if ratio := point.get("ratio"):
        words.append(f"prune {ratio:g}")
    bits = [point.get(f"{of}_bits", 32) for of in ("weight", "activation")]
    if bits != [32, 32]:
        words.append(f"{bits[0]}/{bits[1]} bit")
    if (dtype := point.get("dtype", "float32")) != "float32":
        words.append(str(dtype))
    if steps := point.get("steps"):
        words.append(f"{steps} steps")
    return ", ".join(words)


def load(pick: Pick, threads: int) -> Program:
    """Return an artifact's program; raises Skipped for what a file alone cannot run."""
    manifest = json.loads((pick.folder / "manifest.json").read_text())
    notes, dtype = manifest.get("notes", {}), manifest["encoding"]["dtype"]
    files = {path.suffix: path for path in sorted(pick.folder.iterdir())}
    if ".onnx" in files:
        folded = {"disable_quant_qdq": "1"} if notes.get("weights_dequantized_at_load") else {}
        return OnnxProgram(files[".onnx"], threads, **folded)
    if ".xml" in files:
        group = 32 if notes.get("dynamic_activations") else 0
        more = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": group}
        return OpenvinoProgram(files[".xml"], threads, PRECISIONS[dtype], **more)
    if ".pt2" in files:
        return _Package(files[".pt2"], getattr(torch, dtype))
    raise Skipped(f"an artifact of {manifest['runtime']} needs the user's code to run")
