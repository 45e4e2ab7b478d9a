"""Pruning without loss: remove the weights that no training input routes, and prove that no training logit changes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamick.metrics import routing_start, routing_update
from dynamick.models import ResNet
from dynamick.nn import DynamicLinear


@dataclass(frozen=True)
class Pruned:
    """What was removed, and the proof.

    Attributes:
        kept, total: weights of the head that remain, of how many.
        most: the largest number that remains in any class.
        images: inputs that were routed, and whose logits were compared.
        changed: logits that are not the same, bit for bit; 0 proves the pruning.
    """

    kept: int
    total: int
    most: int
    images: int
    changed: int


@torch.no_grad()
def prune(model: ResNet, batches: Iterable[Tensor]) -> Pruned:
    """Set to zero, and mask, every weight of a Dynamic-K head that no input routes; in place, in evaluation mode.

    One pass over the images, whose features are kept: what enters the head does not depend on the head.

    Args:
        model: its head must be a `DynamicLinear`.
        batches: all training images under evaluation transforms, prepared, (B, 3, H, W) each.

    Raises:
        ValueError: the head routes nothing of its own.
    """
    head = model.fc
    if not isinstance(head, DynamicLinear) or head.threshold == "gradients":
        raise ValueError("prune: a dense head routes nothing; prune Dynamic-K heads")
    model.eval()
    counts, features = routing_start(head.weight), []
    for images in batches:
        features.append(model.features(images).float())
        counts = routing_update(counts, features[-1], head)
    before = [head(x) for x in features]
    keep = counts.used > 0
    head.weight.masked_fill_(~keep, 0)
    head.set_mask(keep)
    changed = sum(int((head(x) != y).sum()) for x, y in zip(features, before, strict=True))
    return Pruned(int(keep.sum()), keep.numel(), int(keep.sum(1).max()), sum(map(len, features)), changed)
