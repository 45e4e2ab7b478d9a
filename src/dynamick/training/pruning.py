"""Pruning without loss: remove the weights that no training input routes, and prove that no training logit changes."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamick.errors import InputError
from dynamick.functional import dynamic_linear
from dynamick.metrics import routing_start, routing_update
from dynamick.models import ResNet, head_of
from dynamick.nn import DynamicLinear


@dataclass(frozen=True)
class Pruned:
    """What was removed, and the proof.

    Attributes:
        kept, total: weights of the head that remain, of how many.
        max_per_class: the largest number that remains in any class.
        images: inputs that were routed, and whose logits were compared.
        changed: logits that are not the same bit for bit, summed in one order. 0 proves the pruning. After pruning, an
            implementation may sum the same products in another order, and so round differently.
    """

    kept: int
    total: int
    max_per_class: int
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
        InputError: the head does not route, or there are no images. The weights stay as they were.
    """
    head = model.fc
    if not head_of(model).routes:
        raise InputError("prune: a dense head routes nothing; prune Dynamic-K heads")
    model.eval()
    counts, features = routing_start(head.weight), []
    for images in batches:
        features.append(model.features(images).float())
        counts = routing_update(counts, features[-1], head)
    if not sum(map(len, features)):
        raise InputError(
            "batches: no images, so that nothing would be routed and all weights removed; give the training images"
        )
    whole = copy.deepcopy(head)
    keep = counts.used > 0
    head.weight.masked_fill_(~keep, 0)
    head.set_mask(keep)
    changed = sum(_changed(x, whole, head) for x in features)
    return Pruned(int(keep.sum()), keep.numel(), int(keep.sum(1).max()), sum(map(len, features)), changed)


def _changed(x: Tensor, before: DynamicLinear, after: DynamicLinear) -> int:
    """Logits that differ between two heads. If the fastest way sums in another order, they are summed again, largest first."""
    if torch.equal(before(x), after(x)):
        return 0
    one, other = (
        dynamic_linear(x, head.weight, head.bias, head.k, head.rule, "chunked", head.mask) for head in (before, after)
    )
    return int((one != other).sum())
