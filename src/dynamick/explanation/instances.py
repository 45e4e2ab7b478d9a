"""Instance explanations: routed products and the bias are the logit (docs/definitions.md, "Dynamic-K"; Fig. 7)."""

import difflib
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from dynamick.data.pictures import as_images
from dynamick.errors import InputError
from dynamick.explanation.explained import Concept, Explanation, Explanations, RunnerUp, exact_sum
from dynamick.explanation.head import LinearHead
from dynamick.explanation.maps import Maps
from dynamick.explanation.reading import Preprocess, Reader, Reading, Seen, check_images
from dynamick.explanation.sentence import spoken
from dynamick.networks.classes import classes_of
from dynamick.networks.network import OpenNetwork

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

# docs/definitions.md, "Conventions": what "explains 98 % of the score" means.
TOLERANCE = 0.02

Class = int | str
"""A class by its index, or by its name, raw or as people say it."""
_UNASKED = "maps were not asked for"
_MISSING = "in this batch no feature map's mean is the head's input, so there is no exact split; the units alone are shown"


def explain(
    model: nn.Module | OpenNetwork,
    images: Any,
    classes: Class | Sequence[Class] | None = None,
    units: "Dissection | None" = None,
    *,
    truth: Class | Sequence[Class | None] | Tensor | None = None,
    preprocess: Preprocess = "model",
    batch_size: int = 64,
    maps: bool = True,
) -> Explanations:
    """Explain classifications by what the classifier adds up, in one forward pass per image.

    Args:
        model: a classifier that ends in a linear layer, dense or Dynamic-K, or what `open_network` gives; its modes are left
            as they were.
        images: a path, an image of Pillow's or a tensor (3, H, W), or several of one kind; a folder; or a tensor (B, 3, H,
            W). Tensors are uint8 or floating point in 0..1. Files are resized and cropped as `dynamick explain` does it.
        classes: the class or classes to explain for each image, by index or name; None explains the predicted one.
        units: the dissection of the layer that enters the head; None leaves the concepts out.
        truth: the true class of each image, by index or name, None where it is not known. A wrong answer is then compared
            with the true class and not with the best other one.
        preprocess: `model` applies `model.preprocessing`; None says that the images are prepared already; or any callable.
        batch_size: images per forward pass.
        maps: False leaves out the split over the image, which for dense heads takes M * H * W numbers an image.

    Returns:
        One explanation per image and class, image by image, in a list that shows itself.

    Raises:
        InputError: images of another shape or type, a class that is not there, a dissection of another layer or number of
            units, or a model without a linear classifier at its end.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> explanations = dk.explain(model, scenes.images, truth=scenes.labels)  # paths and Pillow's images go as well
    >>> len(explanations), explanations[0].truth == scenes.labels[0]
    (4, tensor(True))
    >>> dk.explain(model, scenes.images[0], classes="sailing boat")[0].class_name
    'sailing boat'
    """
    reader, batch = opened(model, images, preprocess)
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} must be an integer from 1 up")
    names = class_names(reader.model, reader.head)
    chosen = None if classes is None else _indices("classes", classes, names)
    known = _truth(truth, names, len(batch))
    explanations = Explanations()
    if len(batch) == 0:
        return explanations
    check_units(units, reader.head, reader.maps(batch))
    for start in range(0, len(batch), batch_size):
        # One batch after the other, so that the maps of all images are never held together.
        stop = start + batch_size
        seen = reader.see(batch[start:stop], batch_size)
        explanations += explanations_of(seen, chosen, units, maps, start, known[start:stop])
    return explanations


def model_of(network: nn.Module | OpenNetwork) -> nn.Module:
    """The model itself, of a model or of what `open_network` gives."""
    return network.model if isinstance(network, OpenNetwork) else network


def opened(model: nn.Module | OpenNetwork, images: Any, preprocess: Preprocess) -> tuple[Reader, Tensor]:
    """A reader of a network, and a batch (B, 3, H, W) of the images, which may be all that `explain` takes.

    Raises:
        InputError: images of another shape or type, or a model without a linear classifier at its end.
    """
    reader = Reader(model_of(model), preprocess)
    size = getattr(reader.preprocess, "size", None)
    batch = as_images(images, size, center_crop=not isinstance(model, OpenNetwork) or model.center_crop)
    check_images(batch)
    return reader, batch


def explanations_of(
    seen: Seen,
    classes: Sequence[int] | None = None,
    units: "Dissection | None" = None,
    maps: bool = True,
    first: int = 0,
    truth: Sequence[int | None] | None = None,
) -> Explanations:
    """`explain` for images that a network was shown already.

    Args:
        seen: the images, and what the network read in them.
        classes, units, maps: as in `explain`.
        first: the number that the first image gets.
        truth: the true class of each image; None where it is not known.

    Raises:
        InputError: a dissection of another layer or number of units.
    """
    reader, explanations, start = seen.reader, Explanations(), 0
    concepts, names = check_units(units, reader.head, seen.where), class_names(reader.model, reader.head)
    for reading in seen.batches:
        why = _UNASKED if not maps else None if reading.maps is not None else seen.where.why or _MISSING
        stop = start + len(reading.x)
        known = [None] * len(reading.x) if truth is None else list(truth[start:stop])
        pictures = seen.images[start:stop]
        explanations += _explain_batch(reader, reading, classes, concepts, names, pictures, known, first + start, why)
        start = stop
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


def _indices(what: str, given: Any, names: list[str]) -> list[int]:
    """Classes by index; they are given by index or name, one or several."""
    several = list(given) if _has_items(given) else [given]
    indices = [index_of(what, each, names) for each in several]
    if not indices:
        raise InputError(f"{what}: {given!r} must be integers in 0..{len(names) - 1} or names, at least one")
    return indices


def index_of(what: str, given: Any, names: list[str]) -> int:
    """A class's index, from its index or its name, raw or as people say it.

    Raises:
        InputError: there is no such class; `what` is the argument that named it.
    """
    if isinstance(given, str):
        places = [place for place, name in enumerate(names) if given in (name, spoken(name))]
        if len(places) == 1:
            return places[0]
        near = difflib.get_close_matches(given, names, 3, cutoff=0.6) or names[:3]
        why = "several classes have this name" if places else f"no class; nearest: {', '.join(near)}"
        raise InputError(f"{what}: {given!r}: {why}")
    try:
        # Whatever counts as an integer: NumPy's and PyTorch's scalars too.
        index = operator.index(given)
    except TypeError:
        raise InputError(f"{what}: {given!r} must be an integer in 0..{len(names) - 1}, or a class's name") from None
    if not 0 <= index < len(names):
        raise InputError(f"{what}: {index} must be an integer in 0..{len(names) - 1}, or a class's name")
    return index


def _truth(given: Any, names: list[str], count: int) -> list[int | None]:
    if given is None:
        return [None] * count
    several = list(given) if _has_items(given) else [given]
    if len(several) != count:
        raise InputError(f"truth: {len(several)} classes for {count} images; give one for each, None where it is not known")
    return [None if each is None else index_of("truth", each, names) for each in several]


def _has_items(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str) and getattr(value, "ndim", 1) > 0


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


def _sums(head: LinearHead, reading: Reading, chosen: Sequence[int] | None, truth: Sequence[int | None]) -> list[list[_Sums]]:
    """For each image, of each class that is explained: the chosen ones, or else the predicted one."""
    ranked = _ranked(reading.logits)
    first, second = ranked[:, :1], ranked[:, :2][:, -1:]
    classes_BC = first if chosen is None else torch.tensor(chosen, device=first.device).expand(len(first), -1)
    true = torch.tensor([[-1 if each is None else each] for each in truth], device=first.device)
    # The predicted class is held against the best other one, or against the true one if it is wrong.
    other_BC = torch.where(classes_BC == first, torch.where((true >= 0) & (true != first), true, second), first)
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
    reader: Reader,
    reading: Reading,
    chosen: Sequence[int] | None,
    concepts: list[Concept | None] | None,
    names: list[str],
    pictures: Tensor,
    truth: Sequence[int | None],
    start: int,
    why: str | None,
) -> list[Explanation]:
    head = reader.head
    predicted, logits, bias = _ranked(reading.logits)[:, 0].tolist(), reading.logits.tolist(), head.bias.double().tolist()
    weight_OM, result = head.effective_weight, list[Explanation]()
    # Images that are normalised already are no pictures to look at.
    can_be_seen = pictures.dtype == torch.uint8 or bool(((pictures >= 0) & (pictures <= 1)).all())
    for b, of_image in enumerate(_sums(head, reading, chosen, truth)):
        for each in of_image:
            c, n = each.chosen, sum(unit >= 0 for unit in each.units)
            units, products = each.units[:n], each.products[:n]
            routed = exact_sum(products)
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
                    indices=units,
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
                    truth=truth[b],
                    picture=pictures[b] if can_be_seen else None,
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


def _shares(products: list[float], denominator: float) -> list[float | None]:
    return [None if denominator == 0 else product / denominator for product in products]


def _pick(concepts: list[Concept | None] | None, units: list[int]) -> list[Concept | None]:
    return [None if concepts is None else concepts[unit] for unit in units]
