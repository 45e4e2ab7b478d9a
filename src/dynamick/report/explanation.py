"""The explanation page: one HTML file that holds the head's exact arithmetic, so that a reader can switch units off."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamick import report
from dynamick.errors import InputError
from dynamick.report import thumbnails

Array = NDArray[Any]

MAX_BYTES = 5_000_000
"""What a page of 50 images may weigh."""


@dataclass(frozen=True)
class ModelSummary:
    """One model's line in the overview; None where a figure was not measured.

    Attributes:
        name: for example `res8-d5a`.
        accuracy: top-1 on held-out images, 0..1.
        weights_per_class: weights of magnitude 1e-3 and more, divided by classes.
        most_weights: the largest number of such weights of a class.
        units: inputs of the head.
        routed_units: how many of them any class uses, by such a weight.
        detectors: units whose concept counts (IoU of 0.04 and more).
        mean_iou: over all units, 0..1.
        covered: the share of classes that at most 5 concepts cover, 0..1.
    """

    name: str
    accuracy: float | None = None
    weights_per_class: float | None = None
    most_weights: int | None = None
    units: int | None = None
    routed_units: int | None = None
    detectors: int | None = None
    mean_iou: float | None = None
    covered: float | None = None


@dataclass(frozen=True)
class Head:
    """The classifier's numbers, from which the page computes.

    Attributes:
        weight: float32, shape (O, M).
        bias: float32, shape (O,).
        rule: `at_most`, `exactly` or `dense`.
        k: how many products a class routes at most; None when dense.
        mask: bool, shape (O, M), False where a connection is pruned; or None.
    """

    weight: Array
    bias: Array
    rule: str
    k: int | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class TopImage:
    """An image that excites a unit most: uint8 (H, W, 3), and where it does: bool (h, w) of any size, or None."""

    image: Array
    mask: Array | None = None


@dataclass(frozen=True)
class Unit:
    """What a unit stands for.

    Attributes:
        index: 0-based; the page counts from 1, as tally.csv does.
        label, category: its concept by dissection; empty where it has none.
        score: its IoU, or None without a dissection.
        detector: whether the score counts.
        top_images: the images that excite it most, in order; the page shows at most four.
    """

    index: int
    label: str = ""
    category: str = ""
    score: float | None = None
    detector: bool = False
    top_images: Sequence[TopImage] = ()


@dataclass(frozen=True)
class ConceptShare:
    """A concept of a class: its summed weight, its share of the class's positive weight, and (unit, weight) pairs, 0-based."""

    label: str
    category: str
    weight: float
    share: float
    units: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class ClassComposition:
    """What a class is made of: its concepts by descending weight, and the size of its negative weights."""

    name: str
    concepts: Sequence[ConceptShare]
    negative: float = 0.0


@dataclass(frozen=True)
class Instance:
    """One explained image.

    Attributes:
        name: its file name.
        image: uint8 (H, W, 3).
        x: the head's inputs, float32 (M,).
        logits: the network's own, (O,), against which the page holds its arithmetic.
        true_class: index of the true class; None where it is not known.
        maps: the maps whose mean over locations is x, float (M, h, w); None where there is no exact split.
    """

    name: str
    image: Array
    x: Array
    logits: Array
    true_class: int | None = None
    maps: Array | None = None


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        title: the heading.
        model: the explained model's figures.
        head: its classifier.
        classes: O names.
        instances: at least one explained image.
        units: M units by index, or none.
        compositions: O compositions, or none.
        twin: the dense twin's figures, or None.
        notes: sentences for the overview: images skipped, why there are no maps, a training that still runs.
    """

    title: str
    model: ModelSummary
    head: Head
    classes: Sequence[str]
    instances: Sequence[Instance]
    units: Sequence[Unit] = ()
    compositions: Sequence[ClassComposition] = ()
    twin: ModelSummary | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def write_page(page: Page, path: str | Path) -> Path:
    """Write the page, one HTML file that needs nothing else, whole or not at all; returns its path.

    Raises:
        InputError: the parts do not fit each other (see `render`).
        OSError: the file cannot be written.
    """
    report.save(path, render(page))
    return Path(path)


def render(page: Page) -> str:
    """The page as HTML text.

    It holds what the arithmetic needs and thins out the rest: the maps of the units that matter most, as many top images
    as there is room for, and of a head too large for one page the classes that come closest in these images.

    Raises:
        InputError: no image, or an array whose shape does not fit the others.
    """
    from markupsafe import Markup

    _check(page)
    kept = _kept_classes(page)
    notes = list(page.notes)
    if len(kept) < len(page.classes):
        notes.append(
            f"The head has {len(page.classes)} classes. This page computes with the {len(kept)} that come closest in these "
            "images; ranking and probabilities are among them."
        )
    data = _data(page, kept)
    used = len(json.dumps(data)) + _FRAME_BYTES
    weights_M = np.abs(np.nan_to_num(page.head.weight)).sum(axis=0)
    top = [[(each.image, each.mask) for each in unit.top_images[:_TOP_IMAGES]] for unit in page.units]
    data["strips"] = thumbnails.strips(top, MAX_BYTES * _scale(page) - used, np.argsort(-weights_M, kind="stable").tolist())
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # JSON inside HTML: no character that could end the script element or begin a comment.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return report.render(
        "explanation.html.j2",
        title=page.title,
        notes=notes,
        columns=[page.model, *([page.twin] if page.twin is not None else [])],
        figures=_figures(page),
        images=len(page.instances),
        has_units=bool(page.units),
        has_compositions=bool(page.compositions),
        rule=page.head.rule,
        k=page.head.k,
        unit_count=page.head.weight.shape[1],
        data=Markup(text),
        **{name: Markup((_HERE / "assets" / file).read_text(encoding="utf-8")) for name, file in _ASSETS.items()},
    )


_HERE = Path(__file__).parent
_ASSETS = {"page_style": "explanation.css", "arithmetic": "arithmetic.js", "views": "explanation.js"}
_FRAME_BYTES = 80_000  # template, style and script, with room to grow
_HEAD_BYTES = 1_200_000
_MAPS_BYTES = 800_000
_IMAGES_BYTES = 1_500_000
_MAP_SIDE = 16
_TOP_IMAGES = 4


def _scale(page: Page) -> float:
    """How many times the budget of 50 images this page has."""
    return max(1.0, len(page.instances) / 50)


def _check(page: Page) -> None:
    O, M = len(page.classes), page.head.weight.shape[-1]
    expected = {"weight": (page.head.weight, (O, M)), "bias": (page.head.bias, (O,))}
    if page.head.mask is not None:
        expected["mask"] = (page.head.mask, (O, M))
    for instance in page.instances:
        expected |= {f"x of {instance.name}": (instance.x, (M,)), f"logits of {instance.name}": (instance.logits, (O,))}
        if instance.maps is not None:
            expected[f"maps of {instance.name}"] = (instance.maps, (M, *instance.maps.shape[-2:]))
        expected[f"image of {instance.name}"] = (instance.image, (*instance.image.shape[:2], 3))
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise InputError(f"{name}: shape {array.shape}; give {shape}, for {O} classes and {M} units")
    if not page.instances or not O:
        raise InputError(f"instances: {len(page.instances)} of {O} classes; a page needs at least one of each")
    if page.units and [unit.index for unit in page.units] != list(range(M)):
        raise InputError(f"units: {len(page.units)} given; give all {M} by index, or none")
    if page.compositions and len(page.compositions) != O:
        raise InputError(f"compositions: {len(page.compositions)} given; give {O}, one for each class, or none")
    if (page.head.rule == "dense") != (page.head.k is None) or page.head.rule not in ("dense", "at_most", "exactly"):
        raise InputError(f"head: rule {page.head.rule!r} with k={page.head.k}; give dense without k, at_most or exactly with k")


def _kept_classes(page: Page) -> list[int]:
    """All classes, or of a head too large those that rank best in any image."""
    weight = page.head.weight
    stored = np.count_nonzero(weight) if page.head.mask is None else int(page.head.mask.sum())
    each = min(weight.shape[1] * 4, stored / len(weight) * 8)
    room = max(int(_HEAD_BYTES / each), 2) if each else len(weight)
    if room >= len(weight):
        return list(range(len(weight)))
    ranks = np.stack([np.argsort(np.argsort(-instance.logits, kind="stable")) for instance in page.instances]).min(axis=0)
    return sorted(np.argsort(ranks, kind="stable")[:room].tolist())


def _data(page: Page, kept: list[int]) -> dict[str, Any]:
    """Everything but the units' pictures, as JSON values; arrays are base64 of little-endian numbers."""
    place = {c: position for position, c in enumerate(kept)}
    limit = _maps_per_image(page)
    images = thumbnails.pictures([instance.image for instance in page.instances], _IMAGES_BYTES * _scale(page))
    return {
        "classes": [page.classes[c] for c in kept],
        "rule": page.head.rule,
        "k": page.head.k,
        "head": _head(page.head, kept),
        "units": [[unit.label, unit.category, _finite(unit.score), unit.detector] for unit in page.units],
        "compositions": [
            {
                "concepts": [
                    [concept.label, concept.category, concept.weight, concept.share, [unit for unit, _ in concept.units]]
                    for concept in page.compositions[c].concepts
                ],
                "negative": page.compositions[c].negative,
            }
            for c in (kept if page.compositions else [])
        ],
        "instances": [
            {
                "name": instance.name,
                "image": image,
                "x": _packed(instance.x, "<f4"),
                "logits": _packed(instance.logits[kept], "<f4"),
                "truth": None if instance.true_class is None else page.classes[instance.true_class],
                "true": place.get(instance.true_class, -1) if instance.true_class is not None else -1,
                "maps": _maps(instance, page.head, limit),
            }
            for instance, image in zip(page.instances, images, strict=True)
        ],
    }


def _head(head: Head, kept: list[int]) -> dict[str, Any]:
    """The kept classes' weights, losslessly: all of them, or only those that are there.

    Without a mask what is left out is zero; with one it is pruned, which the rule `exactly` tells apart.
    """
    weight = head.weight[kept].astype("<f4")
    there = weight != 0 if head.mask is None else head.mask[kept]
    packed: dict[str, Any] = {
        "units": weight.shape[1],
        "bias": _packed(head.bias[kept], "<f4"),
        "masked": head.mask is not None,
    }
    if head.mask is None and there.sum() * 8 >= weight.size * 4:
        return packed | {"dense": _packed(weight, "<f4")}
    return packed | {
        "counts": _packed(there.sum(axis=1), "<u4"),
        "indices": _packed(np.nonzero(there)[1], "<u4"),
        "values": _packed(weight[there], "<f4"),
    }


def _maps_per_image(page: Page) -> int:
    shapes = [instance.maps.shape for instance in page.instances if instance.maps is not None]
    cells = sum(min(h, _MAP_SIDE) * min(w, _MAP_SIDE) for _, h, w in shapes)
    return int(_MAPS_BYTES * _scale(page)) // cells if cells else 0


def _maps(instance: Instance, head: Head, limit: int) -> dict[str, Any] | None:
    """The maps of the units that matter most to this image's five best classes, as signed bytes with a scale each."""
    if instance.maps is None:
        return None
    best = np.argsort(-instance.logits, kind="stable")[:5]
    weight = head.weight[best] if head.mask is None else head.weight[best] * head.mask[best]
    importance = np.abs(weight * np.nan_to_num(instance.x, posinf=0, neginf=0)).max(axis=0)
    units = np.sort(np.argsort(-importance, kind="stable")[:limit])
    maps = _pooled(np.nan_to_num(instance.maps[units].astype(np.float32)))
    scale = np.abs(maps).max(axis=(1, 2), initial=0)
    levels = np.round(maps / np.where(scale > 0, scale, 1)[:, None, None] * 127).astype(np.int8)
    return {
        "units": _packed(units, "<u4"),
        "scale": _packed(scale, "<f4"),
        "size": list(maps.shape[1:]),
        "levels": _packed(levels, "i1"),
    }


def _pooled(maps: Array) -> Array:
    """Maps (n, h, w) averaged down to at most 16 cells a side, so that their mean stays."""
    for axis in (1, 2):
        side = maps.shape[axis]
        if side > _MAP_SIDE:
            edges = np.linspace(0, side, _MAP_SIDE + 1).astype(int)
            sums = np.add.reduceat(maps, edges[:-1], axis=axis)
            maps = sums / np.expand_dims(np.diff(edges), tuple({0, 1, 2} - {axis}))
    return maps


def _packed(array: Array, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def _figures(page: Page) -> list[tuple[str, str, list[str]]]:
    """The overview's rows: a figure's name, what it means, its value for each model. Rows without any value are left out."""
    models = [page.model, *([page.twin] if page.twin is not None else [])]
    rows = [
        ("Accuracy", "top-1, held-out images", [_percent(each.accuracy) for each in models]),
        ("Weights per class", "weights with |w| ≥ 0.001 / classes", [_number(each.weights_per_class) for each in models]),
        ("Most weights of a class", "the largest class", [_number(each.most_weights) for each in models]),
        ("Units in use", "units of which any class has such a weight", [_of(each.routed_units, each.units) for each in models]),
        ("Detectors", "units whose concept counts, IoU of 0.04 and more", [_of(each.detectors, each.units) for each in models]),
        ("Mean IoU", "over all units", [_iou(each.mean_iou) for each in models]),
        ("Classes of few concepts", "5 at most hold 95 % of the positive weight", [_percent(each.covered) for each in models]),
    ]
    return [row for row in rows if any(value != _NONE for value in row[2])]


_NONE = "\N{EN DASH}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _percent(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _iou(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.3f}"


def _number(value: float | None) -> str:
    return _NONE if value is None or not math.isfinite(value) else f"{value:.1f}".removesuffix(".0")


def _of(value: int | None, total: int | None) -> str:
    return _NONE if value is None else f"{value}" if total is None else f"{value} of {total}"
