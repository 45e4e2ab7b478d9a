"""On `ComposedScenes` the truth is known: are learnt compositions the true parts, and heatmaps the true masks?"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.composition import Composition, composition
from dynamick.explanation.maps import NONLINEAR
from dynamick.explanation.pixels import enlarge
from dynamick.explanation.reading import Preprocess, Reader, heat

if TYPE_CHECKING:
    from dynamick.data import ComposedScenes
    from dynamick.dissection import Dissection


@dataclass(frozen=True)
class CompositionTruth:
    """A learnt composition against the class's true parts, means over classes.

    Attributes:
        precision: of the concepts that cover a class, the share that are true parts of it. A class that is covered by
            nothing counts 0.
        recall: of the true parts, the share that are among them.
        weight_precision: of those concepts' weight, the share on true parts.
        concepts: how many concepts cover a class.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> truth = dk.explanation.composition_truth(model, units, scenes.table, scenes.parts)
    >>> 0 <= truth.recall <= 1  # of each class's true parts, the share that its units are named after
    True
    """

    precision: float
    recall: float
    weight_precision: float
    concepts: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class HeatmapTruth:
    """Instance heatmaps of the true class against the true masks, means over images.

    Attributes:
        precision: of the pixels where the heat is at least half its largest, the share on parts of the class.
        recall: of those parts' pixels, the share that is that hot.
        energy: of all positive heat, the share on parts of the class.
        chance: of all pixels, the share on parts of the class: the precision and energy of evenly spread heat.
        parts_found: of the parts of the class that are seen, the share with any pixel that hot.
        images: how many.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> truth = dk.explanation.heatmap_truth(model, scenes)
    >>> truth.images, 0 <= truth.precision <= 1
    (4, True)
    """

    precision: float
    recall: float
    energy: float
    chance: float
    parts_found: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def composition_truth(
    model: nn.Module, units: "Dissection", table: np.ndarray | Tensor, parts: Sequence[str]
) -> CompositionTruth:
    """Compare each class's composition with the parts that it is made of.

    Args:
        model: a classifier of the classes of `table`.
        units: its dissection, by labels among which the parts are.
        table: bool, (classes, parts): `ComposedScenes.table`.
        parts: their names.

    Raises:
        InputError: as `composition`, or a model of another number of classes.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> truth = dk.explanation.composition_truth(model, units, scenes.table, scenes.parts)
    >>> 0 <= truth.precision <= 1
    True
    """
    compositions = composition(model, units)
    if len(compositions) != len(table):
        raise InputError(f"table: parts of {len(table)} classes, but the model has {len(compositions)}")
    scores = [_against(each, _names(row, parts)) for each, row in zip(compositions, table, strict=True)]
    return CompositionTruth(*(statistics.fmean(column) for column in zip(*scores, strict=True)))


def heatmap_truth(
    model: nn.Module,
    scenes: "ComposedScenes",
    limit: int | None = None,
    preprocess: Preprocess = "model",
    batch_size: int = 64,
) -> HeatmapTruth:
    """Compare the heatmaps of each scene's true class with the masks of the class's parts.

    The heat is the sum of the routed units' maps, upsampled bilinearly to the scene's size. An image without any positive
    heat counts 0 in all.

    Args:
        model: a classifier of the scenes' classes whose contributions split over the image.
        scenes: generated scenes with masks.
        limit: how many of them; None takes all.
        preprocess, batch_size: as in `explain`.

    Raises:
        InputError: another number of classes, no scene, or contributions that have no split over the image.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> 0 <= dk.explanation.heatmap_truth(model, scenes, limit=2).energy <= 1
    True
    """
    reader = Reader(model, preprocess)
    if reader.head.weight.shape[0] != len(scenes.classes):
        raise InputError(f"scenes: {len(scenes.classes)} classes, but the model has {reader.head.weight.shape[0]}")
    count = len(scenes) if limit is None else min(limit, len(scenes))
    if count < 1:
        raise InputError("scenes: none to measure on; give one or more")
    table = torch.as_tensor(np.asarray(scenes.table))
    scores = []
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        labels_B = scenes.labels[start:stop]
        reading = reader.read(scenes.images[start:stop])
        maps = heat(reader.head, reading, labels_B.to(reading.x.device))
        if maps is None:
            raise InputError(f"scenes: {NONLINEAR}")
        large_BHW = enlarge(maps.cpu(), (scenes.images.shape[2], scenes.images.shape[3]))
        for heat_HW, place in zip(large_BHW, range(start, stop), strict=True):
            scores.append(_pixels(heat_HW, scenes.masks(place)[table[int(scenes.labels[place])]]))
    precision, recall, energy, chance, found = (statistics.fmean(column) for column in zip(*scores, strict=True))
    return HeatmapTruth(precision, recall, energy, chance, found, count)


def _names(row: Any, parts: Sequence[str]) -> set[str]:
    return {part for part, there in zip(parts, row, strict=True) if there}


def _against(learnt: Composition, true: set[str]) -> tuple[float, float, float, float]:
    labels = {link.label for link in learnt.concepts}
    right = labels & true
    weight = sum(link.weight for link in learnt.concepts)
    on_true = sum(link.weight for link in learnt.concepts if link.label in true)
    return (
        len(right) / len(labels) if labels else 0.0,
        len(right) / len(true),
        on_true / weight if weight else 0.0,
        float(len(learnt.concepts)),
    )


def _pixels(heat_HW: Tensor, masks_PHW: Tensor) -> tuple[float, float, float, float, float]:
    """Precision, recall, energy, chance and the share of parts found in one image."""
    true = masks_PHW.any(dim=0)
    chance = float(true.double().mean())
    positive = heat_HW.clamp(min=0).double()
    if not positive.any():
        return 0.0, 0.0, 0.0, chance, 0.0
    hot = positive >= positive.max() / 2
    seen = masks_PHW[masks_PHW.any(dim=2).any(dim=1)]
    found = (seen & hot).any(dim=2).any(dim=1)
    inside = float((hot & true).sum())
    return (
        inside / float(hot.sum()),
        inside / float(true.sum()) if true.any() else 0.0,
        float(positive[true].sum() / positive.sum()),
        chance,
        float(found.double().mean()) if len(seen) else 0.0,
    )
