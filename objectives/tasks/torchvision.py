"""Image classifiers of torchvision on a folder of images."""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from objectives.checkpoints import load_checkpoint
from objectives.datasets import ImageFolder, image_batches, image_folder
from spaces import Split, Task, first_line

AUXILIARY = ("googlenet", "inception_v3")
"""Models with further heads, which are for training from scratch and are left out."""
HEADS = ("aux1.", "aux2.", "AuxLogits.")
"""Beginnings of the names of their weights."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Torchvision(Task):
    """A classifier of torchvision and its images, prepared as torchvision evaluates the model.

    The weights are those of `checkpoint`, or torchvision's own if the name has theirs, as
    `resnet18.IMAGENET1K_V1`; torchvision then downloads them, unless it did before. Training images
    are not augmented. Raises ValueError for an unknown name, or if there are no trained weights.
    """

    reference = "name"
    packages = ("torchvision",)

    name: str
    data: Path
    """Folder of images: see `objectives.datasets.image_folder`."""
    checkpoint: Path | None = None
    """State dict of trained weights."""
    image_size: int = 0
    """Height and width of the images in pixels; 0 for those of torchvision's own weights."""

    def __post_init__(self) -> None:
        known = list_models(module=torchvision.models)
        if self._architecture not in known:
            other = self._architecture in list_models()
            near = difflib.get_close_matches(self._architecture, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"torchvision has no image classifier {self._architecture!r}"
                + (", it is a model of another kind: write a task.py for it" if other else hint)
            )
        if self._tag and self._tag not in self._weights().__members__:
            raise ValueError(
                f"torchvision has no weights {self._tag!r} of {self._architecture}, it has "
                f"{', '.join(self._weights().__members__)}"
            )
        if not self._tag and self.checkpoint is None:
            raise ValueError(
                f"{self.name} has no trained weights: give them with --checkpoint FILE or name "
                f"torchvision's own, as torchvision:{self._architecture}.DEFAULT"
            )

    def model(self) -> nn.Module:
        """Return the trained model in evaluation mode.

        Raises ValueError if it cannot be loaded, or classifies into other classes than the images.
        """
        images, of = self._images(), f"torchvision's {self.name}"
        if self.checkpoint is None:
            weights = self._weights()[self._tag]
            images.require_classes(len(weights.meta["categories"]), of)
            return self._created(weights=weights).eval()
        network = self._created(num_classes=len(images.classes))
        of = f"{of} with the {images.listed} of {self.data}"
        load_checkpoint(network, self.checkpoint, of, without=HEADS if self._has_heads else ())
        return network.eval()

    def batches(self, split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 3, height, width) and class numbers (batch,)."""
        return image_batches(self._images(), split, batch_size, self._transform())

    def notices(self) -> tuple[str, ...]:
        """Return how the images were divided, and whose weights are used."""
        own = f"the weights of {self.name} are torchvision's (pretrained)"
        return self._images().notices + (() if self.checkpoint else (own,))

    def describe(self) -> dict[str, str]:
        """Return name, data, checkpoint and preprocessing."""
        return {
            "name": f"torchvision:{self.name}",
            "data": str(self.data),
            "checkpoint": str(self.checkpoint or "pretrained"),
            "batches": "RGB images: " + " ".join(str(self._transform()).split()),
        }

    @property
    def _architecture(self) -> str:
        return self.name.partition(".")[0]

    @property
    def _tag(self) -> str:
        return self.name.partition(".")[2]

    @property
    def _has_heads(self) -> bool:
        return self._architecture in AUXILIARY

    def _images(self) -> ImageFolder:
        return image_folder(self.data)

    def _weights(self) -> Any:
        return get_model_weights(self._architecture)

    def _created(self, **settings: Any) -> nn.Module:
        """Return the model of torchvision; raises ValueError if it cannot be made or downloaded."""
        if self._has_heads:
            settings |= {"aux_logits": False, "init_weights": False}
        if self.image_size and self._architecture.startswith("vit_"):
            settings["image_size"] = self.image_size
        if self.image_size and self._architecture.startswith("maxvit_"):
            settings["input_size"] = (self.image_size, self.image_size)
        try:
            network: nn.Module = get_model(self._architecture, **settings)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise ValueError(f"torchvision cannot make {self.name}: {first_line(error)}") from error
        return network

    def _transform(self) -> Callable[[Any], Tensor]:
        """Return the function from a PIL image to a tensor (3, height, width)."""
        weights = self._weights()
        preset = (weights[self._tag] if self._tag else weights.DEFAULT).transforms
        own, size = preset(), {}
        if self.image_size:
            resized = round(self.image_size * own.resize_size[0] / own.crop_size[0])
            size = {"crop_size": self.image_size, "resize_size": resized}
        transform: Callable[[Any], Tensor] = preset(**size)
        return transform
