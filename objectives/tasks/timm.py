"""Image classifiers of timm on a folder of images."""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from objectives.checkpoints import load_checkpoint
from objectives.datasets import ImageFolder, image_batches, image_folder
from spaces import Split, Task, first_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timm(Task):
    """A model of timm and the images that it classifies, prepared as timm evaluates the model.

    The weights are those of `checkpoint`, or timm's own if the name has their tag, as
    `resnet18.a1_in1k`; timm then downloads them, unless it did before. Training images are not
    augmented. Raises ValueError for an unknown name, or if there are no trained weights.
    """

    reference = "name"
    packages = ("timm", "torchvision")

    name: str
    data: Path
    """Folder of images: see `objectives.datasets.image_folder`."""
    checkpoint: Path | None = None
    """State dict of trained weights."""
    image_size: int = 0
    """Height and width of the images in pixels; 0 for those with which timm evaluates the model."""

    def __post_init__(self) -> None:
        architecture, _, tag = self.name.partition(".")
        if not timm.is_model(architecture):
            raise ValueError(f"timm has no model {architecture!r}{_near(architecture)}")
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            raise ValueError(
                f"timm has no weights {tag!r} of {architecture}, it has {', '.join(tags) or 'none'}"
            )
        if not tag and self.checkpoint is None:
            own = f" or name timm's own, as timm:{architecture}.{tags[0]}" if tags else ""
            raise ValueError(
                f"{self.name} has no trained weights: give them with --checkpoint FILE{own}"
            )

    def model(self) -> nn.Module:
        """Return the trained model in evaluation mode.

        Raises ValueError if it cannot be loaded, or classifies into other classes than the images.
        """
        images, of = self._images(), f"timm's {self.name}"
        if self.checkpoint is None:
            images.require_classes(self._config().num_classes, of)
            return self._created(pretrained=True).eval()
        network = self._created(pretrained=False, num_classes=len(images.classes))
        load_checkpoint(network, self.checkpoint, f"{of} with the {images.listed} of {self.data}")
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 3, height, width) and class numbers (batch,)."""
        return image_batches(self._images(), split, batch_size, self._transform())

    def notices(self) -> tuple[str, ...]:
        """Return how the images were divided, and whose weights are used."""
        own = f"the weights of {self.name} are timm's (pretrained)" if not self.checkpoint else ""
        return tuple(filter(None, (*self._images().notices, own)))

    def describe(self) -> dict[str, str]:
        """Return name, data, checkpoint and preprocessing."""
        steps = getattr(self._transform(), "transforms", ())
        return {
            "name": f"timm:{self.name}",
            "data": str(self.data),
            "checkpoint": str(self.checkpoint or "pretrained"),
            "batches": "RGB images: " + ", ".join(" ".join(str(step).split()) for step in steps),
        }

    def _images(self) -> ImageFolder:
        return image_folder(self.data)

    def _created(self, **settings: Any) -> nn.Module:
        """Return the model of timm; raises ValueError if timm cannot make it or get its weights."""
        if self.image_size and self._config().fixed_input_size:
            settings["img_size"] = self.image_size
        try:
            network: nn.Module = timm.create_model(self.name, **settings)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise ValueError(f"timm cannot make {self.name}: {first_line(error)}") from error
        return network

    def _config(self) -> Any:
        return timm.get_pretrained_cfg(self.name)

    def _transform(self) -> Callable[[Any], Tensor]:
        """Return the function from a PIL image to a tensor (3, height, width)."""
        size = {"img_size": self.image_size} if self.image_size else {}
        config = resolve_data_config(size, pretrained_cfg=self._config().to_dict())
        transform: Callable[[Any], Tensor] = create_transform(**config, is_training=False)
        return transform


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() has all"
