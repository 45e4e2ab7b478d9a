"""The dense linear probe: what frozen features are worth. Learnt units are held against it, and learn from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamick.seeding import seed_of

EPOCHS, BATCH, RATE, SMOOTHING = 30, 128, 3e-3, 0.1
DECAYS = (0.1, 1.0, 3.0, 6.0, 12.0)
"""Weight decays to choose from. A usual one, below 1, understates a probe on few images by several points."""
LEAST_STEPS = 200
"""Few images are passed over more often, until so many steps are done."""
FAINT = 1e-3
"""Added to a feature's deviation: one that hardly varies must not be blown up."""


@dataclass(frozen=True)
class Probe:
    """A dense linear head on standardised features.

    Attributes:
        head: nn.Linear on raw features (N, M): the standardisation is folded into it.
        decay: of its weight.
    """

    head: nn.Linear
    decay: float

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Features (N, M) to logits (N, C)."""
        return torch.cat([self.head(rows) for rows in x.split(4096)])


def passes(epochs: int, images: int, batch: int, most: int | None = None) -> int:
    """How often so many images are passed over: more often where the steps would be few, less often where they are many."""
    each = images // batch
    epochs = max(epochs, -(-LEAST_STEPS // each))
    return epochs if most is None else max(1, min(epochs, most // each))


def fit_probe(
    x: Tensor,
    labels: Tensor,
    classes: int,
    decay: float,
    seed: int = 0,
    epochs: int = EPOCHS,
    progress: Callable[[int], Any] | None = None,
) -> Probe:
    """Train a probe by AdamW with label smoothing and a one-cycle rate.

    Args:
        x: features, float32, shape (N, M).
        labels: int64, shape (N,).
        classes: C.
        decay: of the weight, decoupled (Loshchilov and Hutter 2019).
        seed: of the order of the images.
        epochs: passes over the images; more where these would be fewer than 200 steps.
        progress: called after each epoch with the number of images seen in it.
    """
    mean, std = x.mean(0), x.std(0) + FAINT
    scaled = (x - mean) / std
    generator = torch.Generator().manual_seed(seed_of(seed))
    head = nn.Linear(x.shape[1], classes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    groups = [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}]
    batch = min(BATCH, len(x))
    epochs = passes(epochs, len(x), batch)
    optimizer = torch.optim.AdamW(groups, RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * (len(x) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // batch * batch].view(-1, batch):
            optimizer.zero_grad()
            F.cross_entropy(head(scaled[rows]), labels[rows], label_smoothing=SMOOTHING).backward()
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(len(x))
    with torch.no_grad():
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return Probe(head.requires_grad_(False), decay)
