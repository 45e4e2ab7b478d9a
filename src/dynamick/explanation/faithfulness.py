"""Faithfulness: take the units away one by one, route again, watch the score (docs/definitions.md, "Conventions")."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.attribution import METHODS, captum_attr, unit_attributions
from dynamick.explanation.explained import Explanation
from dynamick.explanation.head import LinearHead
from dynamick.explanation.instances import explanations_of
from dynamick.explanation.reading import Preprocess, Reader, Seen

OURS = ("contribution", "random")


@dataclass(frozen=True)
class Curve:
    """How the explained class's probability changes as units are removed and added in one order.

    Attributes:
        order: `contribution` (by W_ci * x_i), `random`, or one of Captum's methods.
        counts: how many units, the points of the curves.
        deletion: the mean probability without the first n units; lower is more faithful.
        insertion: the mean probability with the first n units alone; higher is more faithful.
        deletion_area, insertion_area: their means over the counts (trapezoids), 0..1.
    """

    order: str
    counts: list[int]
    deletion: list[float]
    insertion: list[float]
    deletion_area: float
    insertion_area: float


@dataclass(frozen=True)
class Faithfulness:
    """How well explanations match what the network computes.

    Attributes:
        images: how many.
        curves: one for each order.
        error: the largest |logit - bias - sum of products| over max(1, |logit|).
        units: how many units the head reads.
        median_n98: the median of n98, the units needed for 98 % of the score; None if no image has one.
        share_98: the mean of n98 / units.
        median_residual: of the routed units; 0 for a dense head, which shows all.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> measured = dk.explanation.faithfulness(model, scenes.images, counts=[0, 1])
    >>> measured.images, measured.error < 1e-5  # the products and the bias are the logit
    (4, True)
    """

    images: int
    curves: list[Curve]
    error: float
    units: int
    median_n98: float | None
    share_98: float | None
    median_residual: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def faithfulness(
    model: nn.Module,
    images: Tensor,
    orders: Sequence[str] = OURS,
    counts: Sequence[int] | None = None,
    preprocess: Preprocess = "model",
    batch_size: int = 64,
    repeats: int = 5,
    seed: int = 0,
) -> Faithfulness:
    """Measure how faithful the explanations of a model's predictions are.

    A unit is removed by x_i = 0, and a Dynamic-K head then routes again, so that another unit can step in.

    Args:
        model, images, preprocess, batch_size: as in `explain`.
        orders: `contribution`, `random`, `grad-cam`, `integrated gradients`; the last two need the extra `captum`.
        counts: how many units are removed or added at each point; None takes 0, 1, ..., 32, or as many as there are.
        repeats, seed: of the random orders.

    Raises:
        InputError: as `explain`; an unknown order or count; no image; Captum is asked for and not installed.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d2a", 10, stem="compact", width=8)
    >>> measured = dk.explanation.faithfulness(model, scenes.images, counts=[0, 1, 2])
    >>> measured.units, len(measured.curves[0].deletion)
    (32, 3)
    """
    _check_orders(orders)
    seen = Reader(model, preprocess).see(images, batch_size, maps=False)
    return faithfulness_of(seen, explanations_of(seen, maps=False), orders, counts, repeats, seed)


def faithfulness_of(
    seen: Seen,
    explanations: Sequence[Explanation],
    orders: Sequence[str] = OURS,
    counts: Sequence[int] | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> Faithfulness:
    """`faithfulness` for images that the network was shown already, and their explanations: of the predicted class, one each.

    Raises:
        InputError: an unknown order or count, or Captum is asked for and not installed.
    """
    _check_orders(orders)
    reader, images = seen.reader, seen.images
    units = reader.head.weight.shape[1]
    points = list(range(min(units, 32) + 1)) if counts is None else sorted(set(counts))
    if len(points) < 2 or points[0] < 0 or points[-1] > units or not all(isinstance(n, int) for n in points):
        raise InputError(f"counts: {points} must be two or more integers in 0..{units}")
    sums = {order: torch.zeros(2, len(points), dtype=torch.float64) for order in orders}
    generator = torch.Generator().manual_seed(seed)
    start = 0
    for reading in seen.batches:
        x_BM, stop = reading.x, start + len(reading.x)
        batch, chosen = images[start:stop], [each.class_index for each in explanations[start:stop]]
        start = stop
        classes_B = torch.tensor(chosen, device=x_BM.device)
        for order in orders:
            for importance_BM in _importances(order, reader, batch, x_BM, classes_B, repeats, generator):
                runs = repeats if order == "random" else 1
                sums[order] += deletion_insertion(reader.head, x_BM, classes_B, importance_BM, points).sum(1) / runs
    curves = [_curve(order, points, *(total / len(images)).tolist()) for order, total in sums.items()]
    return Faithfulness(len(images), curves, sum_error(explanations), units, *_needed(explanations, units))


def deletion_insertion(
    head: LinearHead, x_BM: Tensor, classes_B: Tensor, importance_BM: Tensor, counts: Sequence[int]
) -> Tensor:
    """Probabilities of each input's class without, and with only, its n most important units: (2, B, len(counts)), float64.

    Ties in importance: the lower unit first.
    """
    order_BM = importance_BM.argsort(dim=1, descending=True, stable=True)
    rank_BM = order_BM.argsort(dim=1)
    result = torch.empty(2, len(x_BM), len(counts), dtype=torch.float64)
    for place, count in enumerate(counts):
        for side, kept_BM in enumerate((rank_BM >= count, rank_BM < count)):
            result[side, :, place] = probabilities(head.scores(x_BM * kept_BM)).gather(1, classes_B[:, None])[:, 0].cpu()
    return result


def probabilities(logits_BO: Tensor) -> Tensor:
    """Each class's, float64: by softmax, of a network with one logit by the logistic function."""
    logits = logits_BO.double()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def _check_orders(orders: Sequence[str]) -> None:
    unknown = [order for order in orders if order not in OURS + METHODS]
    if unknown:
        raise InputError(f"orders: {unknown[0]!r} is unknown; give some of {', '.join(OURS + METHODS)}")
    if any(order in METHODS for order in orders):
        captum_attr()


def sum_error(explanations: Sequence[Explanation]) -> float:
    """The largest |logit - bias - sum of products| over max(1, |logit|): the distance of explanation and computation."""
    errors = [abs(each.logit - each.bias - sum(each.products)) / max(1.0, abs(each.logit)) for each in explanations]
    return max(errors, default=0.0)


def _importances(
    order: str,
    reader: Reader,
    images: Tensor,
    x_BM: Tensor,
    classes_B: Tensor,
    repeats: int,
    generator: torch.Generator,
) -> list[Tensor]:
    if order == "contribution":
        return [x_BM.double() * reader.head.effective_weight[classes_B]]
    if order == "random":
        return [torch.rand(x_BM.shape, generator=generator).to(x_BM.device) for _ in range(repeats)]
    return [unit_attributions(reader, images, classes_B, order)]


def _curve(order: str, counts: list[int], deletion: list[float], insertion: list[float]) -> Curve:
    points = torch.tensor(counts, dtype=torch.float64)
    areas = [float(torch.trapezoid(torch.tensor(side), points) / (points[-1] - points[0])) for side in (deletion, insertion)]
    return Curve(order, counts, deletion, insertion, *areas)


def _needed(explanations: Sequence[Explanation], units: int) -> tuple[float | None, float | None, float | None]:
    """The median n98, its mean share of the units, and the median residual; None if no image has one."""
    n98 = [each.n98 for each in explanations if each.n98 is not None]
    residuals = [each.residual for each in explanations if each.residual is not None]
    return (
        statistics.median(n98) if n98 else None,
        statistics.mean(n98) / units if n98 else None,
        statistics.median(residuals) if residuals else None,
    )
