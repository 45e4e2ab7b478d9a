"""A head's figures on cached features: accuracy, calibration, sparsity, and the faithfulness of its explanations."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from dynamick.comparison.cache import Features
from dynamick.data.images import evenly_spaced
from dynamick.explanation import faithfulness
from dynamick.metrics import routing_compute, routing_start, routing_update
from dynamick.nn import DynamicLinear

BINS = 15
"""Of the calibration error."""
EXPLAINED = 500
"""How many images, evenly spaced, are explained to measure faithfulness."""


@torch.no_grad()
def measure(head: Any, data: Features) -> dict[str, float | None]:
    """A head's figures on features. A head that makes units of its own is measured on these.

    Returns:
        `top1` (%), `loss` (mean cross entropy), `ece` (%, 15 bins, over the predicted class), `nec` (non-zeros a class, mean),
        `max_per_class` (the largest such number), `routed` (products summed for an input and class), `units` (with a non-zero
        weight), `classes_per_unit` (that a used unit serves, mean), `shared` (% of the used units that serve several classes),
        and `n98`, `deletion`, `insertion` as in `explain`.

    >>> features = dk.comparison.Features(torch.rand(8, 16), torch.arange(8) % 2, ["a", "b"], [str(n) for n in range(8)])
    >>> figures = dk.comparison.measure(torch.nn.Linear(16, 2), features)
    >>> figures["nec"], figures["routed"]  # weights a class, and products summed for an input and class
    (16.0, 16.0)
    """
    if isinstance(head, nn.Sequential):
        own, head = head
        data = replace(data, x=torch.cat([own(x) for x in data.x.split(4096)]))
    weight: Tensor = head.weight
    logits, counts = [], routing_start(weight)
    for x in data.x.split(4096):
        logits.append(head(x))
        counts = routing_update(counts, x, head)
    logits_NC = torch.cat(logits)
    per_unit = used(head).sum(0)
    units = int((per_unit > 0).sum())
    return {
        "top1": 100 * (logits_NC.argmax(1) == data.labels).double().mean().item(),
        "loss": nn.functional.cross_entropy(logits_NC, data.labels).item(),
        "ece": 100 * calibration_error(logits_NC, data.labels),
        "nec": per_unit.sum().item() / len(weight),
        "max_per_class": int(used(head).sum(1).max()),
        "routed": routing_compute(counts)[0],
        "units": units,
        "classes_per_unit": per_unit.sum().item() / max(1, units),
        "shared": 100 * int((per_unit > 1).sum()) / max(1, units),
        **explain(head, data.x[list(evenly_spaced(len(data), EXPLAINED))]),
    }


def explain(head: nn.Module, x: Tensor) -> dict[str, float | None]:
    """Faithfulness of the explanations of a head's predictions on features (N, M) (`dynamick.explanation.faithfulness`).

    Returns:
        `n98`: the median number of units that hold 98 % of the score (None if no input has one); `deletion`, `insertion`:
        the mean probability of the predicted class while up to 32 units are taken away, and added, by their contribution.
    """
    # A unit's value is a map of one pixel: features are images of M channels to the explanation.
    found = faithfulness(nn.Sequential(nn.Flatten(), head), x[:, :, None, None], ("contribution",), preprocess=None)
    curve = found.curves[0]
    return {"n98": found.median_n98, "deletion": curve.deletion_area, "insertion": curve.insertion_area}


def used(head: nn.Module) -> Tensor:
    """Boolean, shape (C, M): the weights of a head that are not zero, and not masked out."""
    weight = head.get_parameter("weight")
    mask = head.mask if isinstance(head, DynamicLinear) else None
    return weight != 0 if mask is None else (weight != 0) & mask


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """The expected calibration error, 0..1: logits (N, C), 15 bins of equal width over the predicted class's probability."""
    error = multiclass_calibration_error(logits.softmax(1), labels, logits.shape[1], n_bins=BINS, norm="l1")
    return error.item()
