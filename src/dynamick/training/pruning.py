"""Pruning without loss: weights and units that no training input routes go, and it is proved that no training logit changes."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.functional import dynamic_linear
from dynamick.metrics import routing_start, routing_update
from dynamick.nn import DynamicLinear, UnitLayer, find_classifier, unit_layer


@dataclass(frozen=True)
class Pruned:
    """What was removed, and the proof.

    Attributes:
        kept, total: weights of the head that remain, of how many.
        max_per_class: the largest number that remains in any class.
        images: inputs that were routed, and whose logits were compared.
        changed: logits that are not the same, bit for bit, summed in one order; 0 proves the pruning. An implementation may
            sum the same products in another order once others are pruned, and so round otherwise.
        units: units of a unit layer that remain; None without one.

    >>> pruned = dk.prune(dk.models.create("res8-d2a", 4, stem="compact", width=8), [torch.rand(8, 3, 32, 32)])
    >>> pruned.kept <= pruned.total == 4 * 32, pruned.changed
    (True, 0)
    """

    kept: int
    total: int
    max_per_class: int
    images: int
    changed: int
    units: int | None = None


@torch.no_grad()
def prune(model: nn.Module, batches: Iterable[Tensor]) -> Pruned:
    """Remove every weight of a Dynamic-K head that no input routes, and every learnt unit that no class keeps.

    In place; the model is left in evaluation mode. Weights become zero and are masked; units leave the unit layer, and the
    head's inputs with them, so an optimiser that knows their parameters is of no more use. One pass over the images: what
    enters the head does not depend on the head.

    Args:
        model: any network whose classifier is a `DynamicLinear` that routes (`dynamick.convert`).
        batches: all training images under evaluation transforms, prepared, (B, C, H, W) each.

    Raises:
        InputError: the head does not route, or there are no images. The weights stay as they were.

    >>> model = dk.models.create("res8-d2a", 4, stem="compact", width=8)
    >>> pruned = dk.prune(model, [torch.rand(8, 3, 32, 32)])
    >>> pruned.changed  # logits of these images that are others now
    0
    """
    name = find_classifier(model)
    head = model.get_submodule(name)
    if not isinstance(head, DynamicLinear) or head.threshold != "activations":
        raise InputError("prune: a dense head routes nothing; prune Dynamic-K heads")
    model.eval()
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].detach().float()))
    try:
        for images in batches:
            if len(images):
                model(images)
    finally:
        hook.remove()
    return prune_head(head, features, unit_layer(model))


@torch.no_grad()
def prune_head(head: DynamicLinear, features: list[Tensor], units: UnitLayer | None = None) -> Pruned:
    """The same for a head and what enters it.

    Args:
        head: it routes.
        features: of all training images, in batches of (B, inputs).
        units: the layer that puts these out; its units that no class keeps are taken out.

    Raises:
        InputError: there are no images; the weights stay as they were.
    """
    images = sum(map(len, features))
    if not images:
        raise InputError(
            "batches: no images, so that nothing would be routed and all weights removed; give the training images"
        )
    counts = routing_start(head.weight)
    for x in features:
        counts = routing_update(counts, x, head)
    whole, keep = copy.deepcopy(head), counts.used > 0
    head.weight.masked_fill_(~keep, 0)
    head.set_mask(keep)
    figures = {"kept": int(keep.sum()), "total": keep.numel(), "max_per_class": int(keep.sum(1).max()), "images": images}
    # Their forward passes alone: units that are learnt on vectors are a hook of the head.
    changed = sum(_changed(whole.forward(x), head.forward(x), whole, head, x) for x in features)
    if units is not None:
        kept = keep.any(0).nonzero().flatten()
        _leave_units(head, units, kept)
        changed += sum(_changed(whole.forward(x), head.forward(x[:, kept]), whole, head, x, x[:, kept]) for x in features)
    return Pruned(**figures, changed=changed, units=None if units is None else head.in_features)


def _leave_units(head: DynamicLinear, units: UnitLayer, kept: Tensor) -> None:
    """Take all other units out, of the layer and of the head."""
    units.keep(kept)
    mask: Any = head.mask
    head.weight = nn.Parameter(head.weight[:, kept].clone(), requires_grad=head.weight.requires_grad)
    head.in_features = len(kept)
    head.set_mask(mask[:, kept])


def _changed(
    before: Tensor, after: Tensor, whole: DynamicLinear, pruned: DynamicLinear, x: Tensor, fewer: Tensor | None = None
) -> int:
    """Logits that differ between two heads. If the fastest way sums in another order, they are summed again, largest first."""
    if torch.equal(before, after):
        return 0
    inputs = ((whole, x), (pruned, x if fewer is None else fewer))
    one, other = (dynamic_linear(at, each.weight, each.bias, each.k, each.rule, "chunked", each.mask) for each, at in inputs)
    return int((one != other).sum())
