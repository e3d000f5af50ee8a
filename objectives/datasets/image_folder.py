"""Image folders: FOLDER/SPLIT/CLASS/IMAGE, or FOLDER/CLASS/IMAGE, which is divided into splits."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from objectives.datasets.splits import NAMES, division, named, orders, require_classes
from spaces import Split, first_line

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
)
"""Endings of files that are images; others are left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images of a folder by split, with the numbers of their classes."""

    folder: Path
    classes: tuple[str, ...]
    """Names of the classes in alphabetical order, as torchvision and timm number them."""
    files: Mapping[Split, tuple[tuple[Path, int], ...]]
    """Path and class of each image; those of validation and test in random but fixed order."""
    notices: tuple[str, ...]
    """Lines on what was divided and what was left out."""

    def require_classes(self, count: int, model: str) -> None:
        """Raise ValueError unless a model with `count` outputs fits the folder."""
        if count != len(self.classes):
            raise ValueError(
                f"{model} has {count} classes and {self.folder} has {self.listed}: give the images "
                "that it was trained for, or with --checkpoint the weights of a model for these"
            )

    @property
    def listed(self) -> str:
        """The number of classes and the first names."""
        names = ", ".join(self.classes[:3]) + (", ..." if len(self.classes) > 3 else "")
        return f"{len(self.classes)} classes ({names})"


@functools.cache  # every reading of a split asks for it, and a folder may have a million files
def image_folder(folder: Path) -> ImageFolder:
    """Return the images of a folder.

    Raises ValueError if it has fewer than two classes, no images, or classes without training
    images.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder of images at {folder}")
    parts = named(folder)
    found = {split: _by_class(path) for split, path in parts.items()}
    if not found:
        found = {"train": _by_class(folder)}
    classes = tuple(sorted(found.get("train", {})))
    if len(classes) == 1:
        raise ValueError(
            f"{folder} has one class, {classes[0]}: a classifier tells two or more apart"
        )
    given = {split: [(f, name) for name in by for f in by[name]] for split, by in found.items()}
    of_file = {item: item[1] for items in given.values() for item in items}
    splits, notice = division(given, str(folder), of_file)
    _check_classes(folder, classes, found)
    numbers = {name: number for number, name in enumerate(classes)}
    for split in ("validation", "test"):
        random.Random(0).shuffle(splits[split])  # a folder is sorted by class, and is read in parts
    for split, items in splits.items():
        require_classes(split, (name for _, name in items), str(folder))
    files = {split: tuple((f, numbers[n]) for f, n in items) for split, items in splits.items()}
    notices = tuple(filter(None, (notice, *_left_out(folder, list(parts.values())))))
    return ImageFolder(folder=folder, classes=classes, files=files, notices=notices)


def image_batches(
    images: ImageFolder, split: Split, batch_size: int, transform: Callable[[Any], Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (batch, channels, height, width) and class numbers (batch,) of a split.

    `transform` makes a tensor of a PIL image in RGB. Raises ValueError for a file that is no image.
    """
    files = images.files[split]
    for index in orders(len(files), split, batch_size):
        chosen = [files[i] for i in index.tolist()]
        pixels = torch.stack([transform(_opened(path)) for path, _ in chosen])
        yield pixels, torch.tensor([number for _, number in chosen])


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the images below each subfolder; raises ValueError if there are no subfolders."""
    subfolders = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name[0] != "."]
    if not subfolders:
        raise ValueError(f"{folder} has no classes: put the images of each into a folder of it")
    return {
        sub.name: sorted(f for f in sub.rglob("*") if f.suffix.lower() in SUFFIXES)
        for sub in subfolders
    }


def _left_out(folder: Path, parts: Sequence[Path]) -> Iterator[str]:
    """Yield lines on folders that are no splits, and on files that are no images."""
    others = [p.name for p in folder.iterdir() if p.is_dir() and p not in parts]
    if parts and (others := sorted(name for name in others if name[0] != ".")):
        names = ", ".join(name for group in NAMES.values() for name in group)
        yield f"{others[0]} of {folder} is left out: splits are named {names}"
    classes = (sub for part in parts or [folder] for sub in part.iterdir() if sub.is_dir())
    files = (f for sub in classes if sub.name[0] != "." for f in sub.rglob("*") if f.is_file())
    wrong = [f for f in files if f.suffix.lower() not in SUFFIXES and f.name[0] != "."]
    if wrong:
        yield f"{len(wrong)} files of {folder} are left out, as {wrong[0].name}: {_endings()}"


def _check_classes(
    folder: Path, classes: tuple[str, ...], found: Mapping[Split, Mapping[str, list[Path]]]
) -> None:
    for name in classes:
        if not found["train"][name]:
            raise ValueError(f"the class {name} of {folder} has no images: {_endings()}")
    for split, by in found.items():
        if unknown := [name for name in by if name not in classes]:
            raise ValueError(
                f"{folder} has the class {unknown[0]} in {split} and not in train: classes are "
                "numbered by the folders of train"
            )


def _endings() -> str:
    return f"names of images end in {', '.join(sorted(SUFFIXES))}"


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {first_line(error)}") from error
