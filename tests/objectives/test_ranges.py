"""Rules for activation ranges: used where ranges are calibrated, refused where they are not."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from _networks import Convolutions, Transformer, built, images, request, sentences

from objectives import Runtime, Target
from objectives.runtimes.eager import Eager
from objectives.runtimes.onnxruntime import Onnxruntime
from objectives.runtimes.openvino import Openvino
from spaces import Encoding, Infeasible

INTEGERS = {"weight_bits": 8, "activation_bits": 8}
LINEAR = frozenset({"Linear"})
MIXED = frozenset({"Conv2d", "Linear"})


def contents(folder: Path) -> str:
    """Return a digest of the artifact's numbers."""
    (file,) = (f for f in folder.iterdir() if f.suffix in (".onnx", ".bin"))
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("kind", "rules"),
    [(Onnxruntime, ("min-max", "percentile", "entropy")), (Openvino, ("min-max", "percentile"))],
)
def test_each_rule_makes_a_file_of_its_own_where_ranges_are_calibrated(
    tmp_path: Path, kind: Callable[[], Runtime], rules: tuple[str, ...]
) -> None:
    tailed = images(16) ** 5  # a few values far from the others, for rules to cut off
    found = {}
    for name, rule in [*zip(rules, rules, strict=True), ("again", rules[0])]:
        folder = tmp_path / name
        folder.mkdir()
        export = request(built(Convolutions), tailed, folder, calibration=rule, **INTEGERS)
        assert kind().refuses(export.encoding, Target(), MIXED) is None
        kind().export(export)
        found[name] = contents(folder)
    assert found.pop("again") == found[rules[0]]
    assert len(set(found.values())) == len(rules)


@pytest.mark.parametrize("rule", ["percentile", "entropy"])
@pytest.mark.parametrize(
    ("runtime", "bits", "kinds"),
    [
        (Eager(), INTEGERS, LINEAR),
        (Onnxruntime(), INTEGERS, LINEAR),
        (Onnxruntime(), {"weight_bits": 4, "activation_bits": 8}, MIXED),
    ],
)
def test_a_rule_is_refused_where_ranges_are_found_at_run_time(
    runtime: Runtime, bits: dict[str, int], kinds: frozenset[str], rule: str
) -> None:
    assert runtime.refuses(Encoding(**bits), Target(), kinds) is None
    reason = runtime.refuses(Encoding(calibration=rule, **bits), Target(), kinds)
    assert reason is not None
    assert f"calibration = {rule} would change nothing" in reason


def test_a_rule_is_refused_where_the_graph_shows_that_it_is_not_used(tmp_path: Path) -> None:
    export = request(built(Transformer), sentences(16), tmp_path, calibration="entropy", **INTEGERS)
    with pytest.raises(Infeasible, match="calibration = entropy would change nothing"):
        Onnxruntime().export(export)
