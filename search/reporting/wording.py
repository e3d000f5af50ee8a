"""How points and quantities read, wherever they are told."""

from collections.abc import Mapping

from objectives import Measurement
from spaces import Value

WORDS = {
    "ratio": "{family} {value}",
    "sparsity": "sparse {value}",
    "steps": "{value} steps",
    "mean_bits": "mean {value} bit",
    "bits": "{value}-bit codebooks",
    "temperature": "T{value}",
    "teacher_weight": "teacher {value}",
    "layers.count": "depth -{value}",
    "devices.count": "{value} devices",
}
"""How a dimension's value reads in short, by the last part of its name or the last two."""


def short(
    point: Mapping[str, Value], neutral: Mapping[str, Value], *, taken_back: bool = False
) -> str:
    """Return a point in short, without what is neutral: `prune 0.3 · 8/8 bit · T4 200 steps`.

    The runtime is left out: it is told beside the point. Training that was taken back is said.
    """
    changed = {k: v for k, v in point.items() if neutral.get(k) != v}
    groups: dict[str, list[str]] = {}
    for name in changed:
        technique = name.rpartition(".")[0]
        if technique != "deploy.runtime":
            words = groups.setdefault(technique, [])
            words += _words(name, point, words)
    parts = [" ".join(_temperature_first(words)) for words in groups.values()]
    return (" · ".join(parts) or "unchanged") + (" (taken back)" if taken_back else "")


def _words(name: str, point: Mapping[str, Value], so_far: list[str]) -> list[str]:
    technique, _, field = name.rpartition(".")
    value = point[name]
    if field in ("weight_bits", "activation_bits"):
        bits = "/".join(
            str(point.get(f"{technique}.{f}_bits", 32)) for f in ("weight", "activation")
        )
        return [] if so_far else [f"{bits} bit"]
    if isinstance(value, bool):
        return [field.replace("_", " ") if value else f"no {field.replace('_', ' ')}"]
    if isinstance(value, str):
        return [value]
    family = technique.partition(".")[0]
    own = ".".join(name.split(".")[-2:])
    pattern = WORDS.get(own) or WORDS.get(field, "{field} {value}")
    return [pattern.format(family=family, field=field.replace("_", " "), value=f"{value:.4g}")]


def _temperature_first(words: list[str]) -> list[str]:
    return sorted(words, key=lambda word: not word.startswith("T"))


def quantity(value: float, unit: str) -> str:
    """Return a value as read by people: `0.487 ms`, `1.10 MB`, `0.881`."""
    if unit in ("bytes", "byte", "B"):
        for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= scale:
                return f"{figures(value / scale)} {name}"
        return f"{value:.0f} B"
    if unit == "score":
        return f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"
    return f"{figures(value)} {unit}".rstrip()


def figures(value: float) -> str:
    """Return a number with three figures and no exponent where that is readable."""
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{3 if abs(value) < 1 else decimals}f}"


def interval(measurement: Measurement) -> str:
    """Return a measurement with its 95 % interval, in its unit."""
    low, high = (quantity(v, measurement.unit) for v in (measurement.low, measurement.high))
    value = quantity(measurement.value, measurement.unit)
    return value if low == high == value else f"{value} ({low} to {high})"
