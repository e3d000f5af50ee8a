"""Continuation of a run: changes since it began, told and refused, or forced and noted."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from objectives import cached, fingerprint
from search import run_folder
from search.errors import BadRun, SearchError
from search.experiment import BUDGET, Experiment
from search.origin.origin import Origin, first_samples
from spaces import Split

UNTOLD = (
    "the version that began this run did not record its code, data and versions: changes of them "
    "since then cannot be told"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One difference between a run as it was begun and what is asked now."""

    text: str
    """What changed, as a part of a sentence."""
    harmless: bool = False
    """True if records before and after it mean the same; it is told and not refused."""
    final: bool = False
    """True if records before and after it cannot be in one run, also not by force."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a run may be continued with."""

    noted: tuple[str, ...] = ()
    """Changes since the run began that were forced, now or earlier."""
    new: tuple[str, ...] = ()
    """Those of them that are forced now."""
    told: tuple[str, ...] = ()
    """Lines for the user."""


def continued(folder: Path, experiment: Experiment, origin: Origin, *, force: bool) -> Continuation:
    """Return what is to be noted when a run is begun or continued.

    Raises BadRun if the run is not what it was begun as, unless `force` is True and the records
    can still be in one run.
    """
    began = run_folder.read_environment(folder)
    if began is None:
        return Continuation()
    earlier = [text for entry in began.get("continued", ()) for text in entry["changes"]]
    changes = list(changes_since(folder, experiment, origin))
    told = [change.text for change in changes if change.harmless]
    told += [] if "made_from" in began else [UNTOLD]
    refused = [change for change in changes if not change.harmless]
    final = [change.text for change in refused if change.final]
    texts = [change.text for change in refused]
    if final:
        raise BadRun(f"{_changed(folder, final)}; begin a new run with --out")
    if texts and not force:
        raise BadRun(
            f"{_changed(folder, texts)}; undo it, begin a new run with --out, or continue with "
            "--force, which is noted in the records"
        )
    return Continuation(
        noted=(*earlier, *texts),
        new=tuple(texts),
        told=(*told, *(f"continued by force although {text}" for text in texts)),
    )


def _changed(folder: Path, texts: Sequence[str]) -> str:
    return f"{folder} is continued only as it was begun, and since then {', and '.join(texts)}"


def changes_since(folder: Path, experiment: Experiment, origin: Origin) -> Iterator[Change]:
    """Yield the differences between a run as it was begun, or last forced, and the present."""
    began = run_folder.read_environment(folder) or {}
    yield from _experiment_changes(folder, experiment)
    if "made_from" not in began:
        return
    before = Origin.from_json(began["made_from"])
    yield from _code_changes(before.code, origin.code)
    if before.weights != origin.weights:
        yield Change(text="the weights that model() returns changed")
    yield from _data_changes(folder, experiment, before, origin)
    yield from _version_changes(before.versions, origin.versions)
    if before.device and origin.device and before.device != origin.device:
        yield Change(text=f"the device was {before.device!r} and is {origin.device!r}")


def _experiment_changes(folder: Path, experiment: Experiment) -> Iterator[Change]:
    try:
        before = run_folder.reopen(folder)
    except SearchError as error:
        yield Change(text=f"its experiment can no longer be read ({error})", final=True)
        return
    if before.key == experiment.key:
        return
    plain = (json.loads(json.dumps(e.to_json())) for e in (before, experiment))
    old, new = (dict(_leaves(tree)) for tree in plain)
    for name in dict.fromkeys([*old, *new]):
        if any(other.startswith(f"{name}.") for other in (*old, *new)):
            continue  # a table that has settings on one side only: those are told
        if old.get(name) != new.get(name) and name.partition(".")[0] not in BUDGET:
            was, now = (_shown(leaves, name) for leaves in (old, new))
            yield Change(text=f"{name} was {was} and is {now}", final=_is_final(name, old, new))
    if before.folder != experiment.folder:
        yield Change(text=f"its folder was {before.folder} and is {experiment.folder}")


def _is_final(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """True if points or values before and after the change of a setting cannot be compared."""
    top, _, rest = name.partition(".")
    if top == "objectives":
        objective = rest.partition(".")[0]
        prefix = f"objectives.{objective}"
        return not all(any(f"{n}.".startswith(f"{prefix}.") for n in side) for side in (old, new))
    return top in ("space", "target")


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    if name not in leaves:
        return "not set"
    return "the default" if leaves[name] == {} else repr(leaves[name])


def _code_changes(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> Iterator[Change]:
    for file in dict.fromkeys([*before, *now]):
        if file not in now:
            yield Change(text=f"{file} is no longer used")
        elif file not in before:
            yield Change(text=f"{file} is used too")
        else:
            old, new = before[file], now[file]
            parts = [p for p in dict.fromkeys([*old, *new]) if old.get(p) != new.get(p)]
            if parts:
                names = ", ".join(part or "top level" for part in parts)
                yield Change(text=f"{file} changed ({names})")


def _data_changes(
    folder: Path, experiment: Experiment, before: Origin, now: Origin
) -> Iterator[Change]:
    changed = []
    for split in get_args(Split):
        differs = before.samples[split] != now.samples[split]
        if differs and first_samples(experiment, split) != now.samples[split]:
            yield Change(
                text=f'batches("{split}", ...) yields other samples at each reading: a change of '
                "them cannot be told",
                harmless=True,
            )
        elif differs or _whole_split_differs(folder, experiment, split):
            changed.append(split)
    if changed:
        yield Change(text=f"the samples that batches() yields changed ({', '.join(changed)})")


def _whole_split_differs(folder: Path, experiment: Experiment, split: Split) -> bool:
    """True if a split that trials on this machine have stored is another one now."""
    data = folder / "cache" / "data"
    if not (data / f"{split}.json").is_file():
        return False
    stored = fingerprint(cached(experiment.task, split, data))
    if stored == _read_anew(experiment, split):
        return False
    # A split that is never read alike was stored by chance as it is.
    return _read_anew(experiment, split) == _read_anew(experiment, split)


def _read_anew(experiment: Experiment, split: Split) -> str:
    """Return the digest of a split as it is read now; it may be larger than the memory."""
    with tempfile.TemporaryDirectory() as folder:
        return fingerprint(cached(experiment.task, split, Path(folder)))


def _version_changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    """Yield changed versions; a patch of Python changes no artifact, so it is only told."""
    for package in dict.fromkeys([*before, *now]):
        old, new = (v.get(package, "not installed") for v in (before, now))
        if old != new:
            patch = package == "python" and old.rpartition(".")[0] == new.rpartition(".")[0]
            yield Change(text=f"{package} was {old} and is {new}", harmless=patch)
