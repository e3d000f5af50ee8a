"""Data for networks of realistic size and random weights: what counts is agreement with them.

Trained weights of this size are not part of the project. The label of a random input is the class
that the unchanged network gives it, so its accuracy is 1 and a candidate's is how often it agrees.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = {"train": 256, "validation": 128, "test": 128}


def labelled(
    model: nn.Module, inputs: Callable[[int, torch.Generator], Any], split: str, batch_size: int
) -> Iterator[tuple[Any, Tensor]]:
    """Yield batches of random inputs with the classes that `model` gives them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    generator = torch.Generator().manual_seed(len(split))
    for start in range(0, SAMPLES[split], batch_size):
        given = inputs(min(batch_size, SAMPLES[split] - start), generator)
        with torch.inference_mode():
            if isinstance(given, dict):
                outputs = model(**{name: t.to(device) for name, t in given.items()})
            else:
                outputs = model(given.to(device))
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        yield given, logits.argmax(-1).cpu()


def images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random images as a vision transformer or a ResNet of transformers takes them."""
    return {"pixel_values": torch.randn(count, 3, 224, 224, generator=generator)}


def loss(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy."""
    return nn.functional.cross_entropy(outputs["logits"], targets)


def score(outputs: Any, targets: Tensor) -> float:
    """Return how often the classes agree."""
    return float((outputs["logits"].argmax(-1) == targets).float().mean())
