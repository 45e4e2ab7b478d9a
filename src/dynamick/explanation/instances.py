"""Instance explanations: routed products and the bias are the logit (docs/definitions.md, "Dynamic-K"; Fig. 7)."""

import json
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.head import LinearHead
from dynamick.explanation.maps import Maps
from dynamick.explanation.reading import Preprocess, Reader, Reading, Seen, check_images
from dynamick.explanation.sentence import Side, sentence, unit_name
from dynamick.networks.classes import classes_of

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

# docs/definitions.md, "Conventions": what "explains 98 % of the score" means.
TOLERANCE = 0.02

_UNASKED = "maps were not asked for"
_MISSING = "in this batch no feature map's mean is the head's input, so there is no exact split; the units alone are shown"


@dataclass(frozen=True)
class Concept:
    """What a unit stands for, by dissection: its label, the label's category, its score (IoU), and whether that counts."""

    label: str
    category: str
    score: float
    detector: bool


@dataclass(frozen=True)
class RunnerUp:
    """The best class beside the explained one (if the answer is wrong, the true one), and what separates the two ("why not").

    Attributes:
        class_index, class_name, logit, bias: the other class.
        units: the units that either class routes, by descending absolute difference; ties: lower index first.
        differences: a unit's product for the explained class minus its product for this one. Their sum is the difference
            of the logits minus the difference of the biases.
        concepts: a unit's concept each; None without a dissection.
    """

    class_index: int
    class_name: str
    logit: float
    bias: float
    units: list[int]
    differences: list[float]
    concepts: list[Concept | None]


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why one image gets the logit of one class: logit = bias + sum of products.

    Attributes:
        image: the image's position among those given.
        class_index, class_name: the class explained; the name is the index if the model has no `classes`.
        predicted: the class of the largest logit.
        logit, bias: Y_c and b_c.
        rule, k: `at_most`, `exactly` or `dense`, and how many products a class routes at most (None when dense).
        units: the routed units, 0-based, by descending product; a dense head routes all of them.
        products: W_ci * x_i, one each.
        concepts: one each; None if no dissection was given.
        shares: `share_of_routed`: p / (Y - b), and `share_of_all`: p / (sum of W_ci x_i over all units), the paper's; one
            list each. A zero denominator gives None.
        residual: 1 minus the sum of `share_of_all`: what the routed units leave of the dense sum (the paper's 2 %). None
            where that sum is zero.
        n98: the smallest n such that the n largest |p|, and any more of them, stay within 2 % of Y - b; None if it is 0.
        runner_up: None for a model of one class.
        maps: each product's split over the image, (n, H, W): W_ci * A_i(h, w) / (H * W), which sums to the product.
        why: why there are no maps; None if there are.
        truth: the image's true class by index; None if it is not known.
    """

    image: int
    class_index: int
    class_name: str
    predicted: int
    logit: float
    bias: float
    rule: str
    k: int | None
    units: list[int]
    products: list[float]
    concepts: list[Concept | None]
    shares: dict[str, list[float | None]]
    residual: float | None
    n98: int | None
    runner_up: RunnerUp | None
    maps: Tensor | None
    why: str | None
    truth: int | None = None

    def __repr__(self) -> str:
        return self.sentence

    @property
    def wrong(self) -> bool:
        """Whether this is the network's answer, and it is known to be wrong."""
        return self.truth is not None and self.class_index == self.predicted != self.truth

    @property
    def sentence(self) -> str:
        """The decision in words, such as "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing"."""
        mine = dict(zip(self.units, self.products, strict=True))
        answer = Side(self.class_name, self.logit, _named(self.units, self.products, self.concepts))
        other = self.runner_up
        if other is None:
            return sentence(answer)
        theirs = [mine.get(unit, 0.0) - apart for unit, apart in zip(other.units, other.differences, strict=True)]
        routed = _named(other.units, theirs, other.concepts)
        return sentence(answer, Side(other.class_name, other.logit, routed), self.wrong)

    def largest(self, n: int | None = None) -> list[int]:
        """Positions in `units` of the n largest |p|, descending (None: as many as reach 98 %, else all)."""
        order = sorted(range(len(self.units)), key=lambda place: (-abs(self.products[place]), self.units[place]))
        return order[: n if n is not None else self.n98]

    def residual_after(self, n: int) -> float | None:
        """1 minus the share of all units' sum that the n largest |p| hold."""
        shares = self.shares["share_of_all"]
        chosen = [shares[place] for place in self.largest(n)]
        if self.residual is None:
            return None
        return 1 - _sum([share for share in chosen if share is not None])

    def to_dict(self, maps: bool = True) -> dict[str, Any]:
        """Plain JSON values. Units count from 1 here, as in tally.csv; a number that is not finite becomes None.

        `maps=False` leaves the maps out.
        """
        result = {name: plain(value) for name, value in self.__dict__.items() if name != "maps"}
        for counted in (result, *([result["runner_up"]] if self.runner_up is not None else [])):
            counted["units"] = [unit + 1 for unit in counted["units"]]
        result["maps"] = plain(self.maps.tolist()) if maps and self.maps is not None else None
        return result

    def to_json(self, maps: bool = True) -> str:
        """`to_dict` as a JSON text."""
        return json.dumps(self.to_dict(maps), allow_nan=False)


def explain(
    model: nn.Module,
    images: Tensor,
    classes: int | Sequence[int] | None = None,
    units: "Dissection | None" = None,
    *,
    preprocess: Preprocess = "model",
    batch_size: int = 64,
    maps: bool = True,
) -> list[Explanation]:
    """Explain classifications by what the classifier adds up, in one forward pass per image.

    Args:
        model: a classifier that ends in a linear layer, dense or Dynamic-K; its modes are left as they were.
        images: (B, 3, H, W), uint8 or floating point in 0..1.
        classes: the class or classes to explain for each image; None explains the predicted one.
        units: the dissection of the layer that enters the head; None leaves the concepts out.
        preprocess: `model` applies `model.preprocessing`; None says that the images are prepared already; or any callable.
        batch_size: images per forward pass.
        maps: False leaves out the split over the image, which for dense heads takes M * H * W numbers an image.

    Returns:
        One explanation per image and class, image by image.

    Raises:
        InputError: images of another shape or type, a class that is not there, a dissection of another layer or number of
            units, or a model without a linear classifier at its end.
    """
    check_images(images)
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} must be an integer from 1 up")
    reader = Reader(model, preprocess)
    chosen = _check_classes(classes, reader.head)
    if len(images) == 0:
        return []
    check_units(units, reader.head, reader.maps(images))
    explanations: list[Explanation] = []
    for start in range(0, len(images), batch_size):
        # One batch after the other, so that the maps of all images are never held together.
        seen = reader.see(images[start : start + batch_size], batch_size)
        explanations += explanations_of(seen, chosen, units, maps, start)
    return explanations


def explanations_of(
    seen: Seen, classes: Sequence[int] | None = None, units: "Dissection | None" = None, maps: bool = True, first: int = 0
) -> list[Explanation]:
    """`explain` for images that a network was shown already.

    Args:
        seen: the images, and what the network read in them.
        classes, units, maps: as in `explain`.
        first: the number that the first image gets.

    Raises:
        InputError: a dissection of another layer or number of units.
    """
    reader, explanations, start = seen.reader, list[Explanation](), first
    concepts, names = check_units(units, reader.head, seen.where), class_names(reader.model, reader.head)
    for reading in seen.batches:
        why = _UNASKED if not maps else None if reading.maps is not None else seen.where.why or _MISSING
        explanations += _explain_batch(reader.head, reading, classes, concepts, names, start, why)
        start += len(reading.x)
    return explanations


def class_names(model: nn.Module, head: LinearHead) -> list[str]:
    """The model's `classes`, a list or a dictionary, or the indices where it has none."""
    return classes_of(getattr(model, "classes", None), len(head.weight))


def concepts_of(units: "Dissection") -> list[Concept | None]:
    """Every unit's concept; None for a unit without a label, or without overlap (a tally then names the first label)."""
    return [
        Concept(str(label), str(category), float(score), bool(detector)) if label and score > 0 else None
        for label, category, score, detector in zip(units.labels, units.categories, units.scores, units.detectors, strict=True)
    ]


def _check_classes(classes: int | Sequence[int] | None, head: LinearHead) -> list[int] | None:
    if classes is None:
        return None
    count = head.weight.shape[0]
    given: Any = classes
    try:
        # Whatever counts as an integer: NumPy's and PyTorch's scalars too.
        chosen = [operator.index(each) for each in (given if _has_items(given) else [given])]
    except TypeError:
        raise InputError(f"classes: {classes!r} must be integers in 0..{count - 1}, at least one") from None
    wrong = [each for each in chosen if not 0 <= each < count]
    if wrong or not chosen:
        raise InputError(f"classes: {wrong or chosen} must be integers in 0..{count - 1}, at least one")
    return chosen


def _has_items(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def check_units(units: "Dissection | None", head: LinearHead, where: Maps) -> list[Concept | None] | None:
    """Every unit's concept; None without a dissection.

    Raises:
        InputError: it is of another number of units than the head reads, or of another layer.
    """
    if units is None:
        return None
    concepts = concepts_of(units)
    expected = head.weight.shape[1]
    if len(concepts) != expected:
        raise InputError(f"units: {len(concepts)} units dissected, but the head reads {expected}; dissect the layer before it")
    layer = getattr(units, "layer", None)
    if layer and where.layers and layer not in where.layers:
        right = min(where.layers, key=lambda name: (name.count("."), name))
        raise InputError(f"units: a dissection of {layer!r}, but the head reads {right!r}; dissect that layer")
    return concepts


class _Sums(NamedTuple):
    """What one class of one image sums, and what the class beside it does; -1 pads the units."""

    units: list[int]
    products: list[float]
    other_units: list[int]
    other_products: list[float]
    chosen: int
    other: int
    total: float
    n98: int


def _sums(head: LinearHead, reading: Reading, chosen: Sequence[int] | None) -> list[list[_Sums]]:
    """For each image, of each class that is explained: the chosen ones, or else the predicted one."""
    ranked = _ranked(reading.logits)
    first, second = ranked[:, :1], ranked[:, :2][:, -1:]
    classes_BC = first if chosen is None else torch.tensor(chosen, device=first.device).expand(len(first), -1)
    other_BC = torch.where(classes_BC == first, second, first)
    route, other = head.route(reading.x, classes_BC), head.route(reading.x, other_BC)
    total_BC = (reading.x.double() @ head.effective_weight.T).gather(1, classes_BC)
    tensors = (route.indices, route.products, other.indices, other.products, classes_BC, other_BC, total_BC)
    # Whole batches become lists at once. Thousands of single reads would cost more than the network.
    rows = zip(*(tensor.tolist() for tensor in (*tensors, _n98(route.products))), strict=True)
    return [[_Sums(*values) for values in zip(*row, strict=True)] for row in rows]


def _ranked(logits_BO: Tensor) -> Tensor:
    """Classes by descending logit. NaN ranks highest and the lower of two equal logits first, as in the routing."""
    return logits_BO.argsort(dim=1, descending=True, stable=True)


def _explain_batch(
    head: LinearHead,
    reading: Reading,
    chosen: Sequence[int] | None,
    concepts: list[Concept | None] | None,
    names: list[str],
    start: int,
    why: str | None,
) -> list[Explanation]:
    predicted, logits, bias = _ranked(reading.logits)[:, 0].tolist(), reading.logits.tolist(), head.bias.double().tolist()
    weight_OM, result = head.effective_weight, list[Explanation]()
    for b, of_image in enumerate(_sums(head, reading, chosen)):
        for each in of_image:
            c, n = each.chosen, sum(unit >= 0 for unit in each.units)
            units, products = each.units[:n], each.products[:n]
            routed = _sum(products)
            split = None if why is not None or reading.maps is None else _split(reading.maps[b], weight_OM[c], units)
            result.append(
                Explanation(
                    image=start + b,
                    class_index=c,
                    class_name=names[c],
                    predicted=predicted[b],
                    logit=logits[b][c],
                    bias=bias[c],
                    rule=head.rule,
                    k=head.k,
                    units=units,
                    products=products,
                    concepts=_pick(concepts, units),
                    shares={
                        "share_of_routed": _shares(products, routed),
                        "share_of_all": _shares(products, each.total),
                    },
                    residual=None if each.total == 0 else 1 - routed / each.total,
                    n98=each.n98 or None,
                    runner_up=_runner_up(each, concepts, names, logits[b], bias),
                    maps=split,
                    why=why,
                )
            )
    return result


def _runner_up(
    sums: _Sums, concepts: list[Concept | None] | None, names: list[str], logits: list[float], bias: list[float]
) -> RunnerUp | None:
    o = sums.other
    if o == sums.chosen:
        return None
    apart = _differences(sums.units, sums.products, sums.other_units, sums.other_products)
    units = list(apart)
    return RunnerUp(o, names[o], logits[o], bias[o], units, list(apart.values()), _pick(concepts, units))


def _split(maps_MHW: Tensor, weight_M: Tensor, units: list[int]) -> Tensor:
    """Each contribution over the image, (n, H, W), float32 on the CPU: W_ci * A_i(h, w) / (H * W); weights are float64."""
    index = torch.tensor(units, dtype=torch.int64, device=maps_MHW.device)
    scale = weight_M[index] / maps_MHW[0].numel()
    return (maps_MHW[index].double() * scale[:, None, None]).float().cpu()


def _n98(products_BCK: Tensor) -> Tensor:
    """n98 (docs/definitions.md, "Conventions") of each row of products, (B, C); 0 where the sum is zero or not finite."""
    order = products_BCK.abs().argsort(dim=2, descending=True, stable=True)
    partial = products_BCK.gather(2, order).cumsum(dim=2)
    total = partial[..., -1:]
    outside = (partial - total).abs() > TOLERANCE * total.abs()
    places = torch.arange(1, partial.shape[2] + 1, device=partial.device)
    n = (outside * places).amax(dim=2) + 1
    valid = (total != 0) & total.isfinite()
    return torch.where(valid[..., 0], n, 0)


def _differences(units: list[int], products: list[float], others: list[int], theirs: list[float]) -> dict[int, float]:
    difference: dict[int, float] = {}
    for sign, those, values in ((1, units, products), (-1, others, theirs)):
        for unit, product in zip(those, values, strict=True):
            if unit >= 0:
                difference[unit] = difference.get(unit, 0.0) + sign * product
    return dict(sorted(difference.items(), key=lambda item: (-abs(item[1]), item[0])))


def _sum(values: list[float]) -> float:
    """The exact sum. Numbers that are not finite, which fsum refuses, are added as floating point does."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def _shares(products: list[float], denominator: float) -> list[float | None]:
    return [None if denominator == 0 else product / denominator for product in products]


def _named(units: list[int], products: list[float], concepts: list[Concept | None]) -> list[tuple[str, float]]:
    """The name and the product of each unit."""
    names = [
        unit_name(unit) if concept is None else unit_name(unit, concept.label, concept.detector)
        for unit, concept in zip(units, concepts, strict=True)
    ]
    return list(zip(names, products, strict=True))


def _pick(concepts: list[Concept | None] | None, units: list[int]) -> list[Concept | None]:
    return [None if concepts is None else concepts[unit] for unit in units]


def plain(value: Any) -> Any:
    """A value for JSON; numbers that JSON does not have become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Concept | RunnerUp):
        return {name: plain(each) for name, each in value.__dict__.items()}
    return value
