"""Divide data without splits of their own into training, validation and test."""

import random
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from spaces import Split

T = TypeVar("T")

NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
"""Names by which people call the splits."""
SHARES: Mapping[Split, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}
"""Shares of the splits where data have none."""
HELD_OUT: Mapping[Split, float] = {"validation": 0.5, "test": 0.5}
"""Shares of validation and test where data have only one of them beside the training data."""


def named(folder: Path, suffixes: Sequence[str] = ("",)) -> dict[Split, Path]:
    """Return the paths in `folder` that are named like a split, with one of the suffixes."""
    found: dict[Split, Path] = {}
    for split, names in NAMES.items():
        paths = (folder / f"{name}{suffix}" for name in names for suffix in suffixes)
        present = [path for path in paths if path.exists()]
        if len(present) > 1:
            raise ValueError(f"{folder} has both {present[0].name} and {present[1].name}: keep one")
        if present:
            found[split] = present[0]
    return found


def division(
    given: Mapping[Split, Sequence[T]], of: str, groups: Mapping[T, Hashable] | None = None
) -> tuple[dict[Split, list[T]], str]:
    """Return all three splits, and a line that says what was divided; empty if nothing was.

    `given` has the splits that the data have, `of` is the name of the data. A single one is all
    data: it is divided by SHARES. A missing validation or test split is half of the other one.
    Each group, such as a class, is divided alike, at random but always alike. Raises ValueError if
    there are no data to validate with, or a split is empty.
    """
    if set(given) == {"train"}:
        splits, text = (
            _divided(given["train"], SHARES, groups),
            (
                f"{of} is divided into 60 % train, 20 % validation, 20 % test; a model that was "
                "trained on all of it scores too high"
            ),
        )
    elif "train" not in given:
        names = " and ".join(given) or "no split"
        raise ValueError(f"{of} has {names} but no train: recovery needs training data")
    elif len(given) == 2:
        (held_out,) = set(given) - {"train"}
        splits = _divided(given[held_out], HELD_OUT, groups)
        splits["train"] = list(given["train"])
        missing = "test" if held_out == "validation" else "validation"
        text = f"{of} has no {missing} split: half of its {held_out} split is used for it"
    else:
        splits, text = {split: list(items) for split, items in given.items()}, ""
    for split, items in splits.items():
        if not items:
            raise ValueError(f"the {split} split of {of} is empty: add samples to it")
    return splits, text


def require_classes(split: Split, labels: Iterable[Hashable], of: str) -> None:
    """Raise ValueError if a split has one class: its score says nothing then."""
    found = set(labels)
    if len(found) == 1:
        raise ValueError(
            f"the {split} split of {of} has one class, {found.pop()}: give it samples of others"
        )


def _divided(
    items: Sequence[T], shares: Mapping[Split, float], groups: Mapping[T, Hashable] | None
) -> dict[Split, list[T]]:
    """Return the items by split, each group divided by the shares and in random order."""
    members: dict[Hashable, list[T]] = {}
    for item in items:
        members.setdefault(groups[item] if groups else None, []).append(item)
    splits: dict[Split, list[T]] = {split: [] for split in shares}
    draw = random.Random(0)
    for group in members.values():
        draw.shuffle(group)
        start, share = 0, 0.0
        for split, part in shares.items():
            share += part
            end = round(share * len(group))
            splits[split] += group[start:end]
            start = end
    for members_of_split in splits.values():
        draw.shuffle(members_of_split)
    return splits


def orders(count: int, split: Split, batch_size: int) -> Iterator[Tensor]:
    """Yield the row numbers of each batch: in random order for training, else in their order."""
    order = torch.randperm(count) if split == "train" else torch.arange(count)
    yield from torch.split(order, batch_size)
