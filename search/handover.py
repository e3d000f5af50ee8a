"""README of an exported artifact: what it is, and how it runs without this package."""

from collections.abc import Mapping
from typing import Any

from objectives import Runtime, Target
from objectives.artifacts import signature_from
from search.records import Record

FILE = "README.md"


def readme(record: Record, manifest: Mapping[str, Any], runtime: Runtime) -> str:
    """Return the content of the file, in Markdown."""
    signature = signature_from(manifest)
    target = Target(**manifest["target"])
    point = ", ".join(f"{name} {value}" for name, value in record.point.items())
    parts = [
        f"# Trial {record.trial}, for {manifest['runtime']}",
        f"{point}.",
        "\n".join(
            f"- {name}: {m.value:.5g} {m.unit} ({m.low:.5g} to {m.high:.5g})"
            for name, m in record.measurements.items()
        ),
        _tensors("Inputs", signature.input_names, signature.input_shapes, signature.input_types),
        _tensors("Outputs", signature.output_names, signature.output_shapes, ()),
        f"The batch size is fixed. Preprocessing: {manifest.get('preprocessing', 'none')}.",
        "## Run it",
    ]
    coded = [name for name in manifest["files"] if name.endswith(".xz")]
    if coded:
        parts.append(f"```bash\nxz --decompress --keep {' '.join(coded)}\n```")
    code = runtime.standalone(signature, target, manifest["notes"])
    parts.append(
        f"```python\n{code}\n```"
        if code
        else "Its runtime rebuilds the model from the code of the task, so it runs by this package:"
    )
    parts.append("```bash\npython -m search measure .\n```")
    return "\n\n".join(parts) + "\n"


def _tensors(
    title: str, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], types: tuple[str, ...]
) -> str:
    kinds = types or ("float32",) * len(names)
    rows = [f"`{n}` {list(s)} {k}" for n, s, k in zip(names, shapes, kinds, strict=True)]
    return f"{title}: {', '.join(rows)}."
