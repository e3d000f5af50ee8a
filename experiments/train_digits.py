"""Trains the network of the embedded default and writes it beside its task.

    python experiments/train_digits.py [--epochs 200]

From scratch in four minutes on one thread, with the seed SEED, on the training split alone. It
prints the accuracies on validation and test; neither chooses an epoch. The images are written too,
from scikit-learn's copy of them.
"""

import argparse

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from objectives.tasks.digits import IMAGES, WEIGHTS, Digits, Network
from spaces import Split

SEED = 0
BATCH = 64
RATE, WEIGHT_DECAY = 3e-3, 0.05
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises; then it falls along a cosine."""
ROTATION, SCALING, SHIFT = 0.15, 0.1, 0.08
"""Largest random rotation in rad, change in size as a share, shift as a share of half an image."""
AVERAGED = 0.99
"""Decay of the exponential moving average of the weights, a step."""


def main() -> None:
    """Write the images and the trained weights, and print the accuracies reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=200)
    epochs = parser.parse_args().epochs
    write_images()
    torch.set_num_threads(1)  # the order of sums, and so their rounding, depends on threads
    torch.manual_seed(SEED)
    task = Digits()
    network = trained(task, epochs)
    save_file(network.state_dict(), WEIGHTS)
    for split in ("train", "validation", "test"):
        print(f"{split:<11} {accuracy(task, split):.4f}")
    print(f"{WEIGHTS.name} {WEIGHTS.stat().st_size:,} bytes")


def write_images() -> None:
    """Write scikit-learn's images and labels as uint8."""
    data = load_digits()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.target)
    save_file({"images": images.to(torch.uint8), "labels": labels.to(torch.uint8)}, IMAGES)


def trained(task: Digits, epochs: int) -> nn.Module:
    """Return a network trained by AdamW, its weights and running statistics averaged."""
    network = Network()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    total = epochs * len(list(task.batches("train", BATCH)))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=total, pct_start=WARM_UP
    )
    for _ in range(epochs):
        for images, labels in task.batches("train", BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(task.loss(network(distorted(images)), labels))
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
    return average.module


def distorted(images: Tensor) -> Tensor:
    """Return images (batch, 1, 8, 8), each rotated, scaled and shifted a little at random."""
    uniform = torch.rand(4, len(images)) * 2 - 1
    angle, scale = ROTATION * uniform[0], 1 + SCALING * uniform[1]
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    x, y = SHIFT * uniform[2:]
    rows = torch.stack([torch.stack([cosine, -sine, x], 1), torch.stack([sine, cosine, y], 1)], 1)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def accuracy(task: Digits, split: Split) -> float:
    """Return the accuracy of the written weights on a split, 0..1."""
    network = task.model()
    with torch.inference_mode():
        pairs = [(network(images), labels) for images, labels in task.batches(split, 360)]
    return task.score(torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs]))


if __name__ == "__main__":
    main()
