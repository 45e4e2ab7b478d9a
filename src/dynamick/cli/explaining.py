"""From a model and images to the explanation page's data: what `dynamick explain` and the demo share."""

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor, nn

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import Dissection
from dynamick.dissection.activations import capture
from dynamick.dissection.gallery import examples
from dynamick.dissection.loading import image_of
from dynamick.errors import InputError
from dynamick.explanation import composition, share_covered
from dynamick.explanation.head import Head, Reader, evaluating, find_head
from dynamick.explanation.instances import check_units, concepts_of
from dynamick.metrics import sparsity
from dynamick.metrics.sparsity import THRESHOLD
from dynamick.report import explanation as page

TOP_IMAGES = 4
PICTURED = 64
"""So many units, those of the largest weights, are shown with top images."""
FEW = 5
"""A class of so many concepts at most is one that a person can keep in mind (the paper: more than 95 % of classes)."""
PROBED = 8
"""So many units tell whether a dissection is of these weights."""
OTHER_WEIGHTS = (
    "The units' names come from a dissection of other weights than these, or of images prepared otherwise (their size, mean or "
    "deviation), so they may be wrong. Dissect these weights, as they are shown here."
)


def explanation_page(
    title: str,
    model: nn.Module,
    images: Tensor,
    names: Sequence[str],
    classes: Sequence[str],
    truth: Sequence[int | None],
    summary: page.ModelSummary,
    units: Dissection | None = None,
    concepts: ConceptDataset | None = None,
    twin: page.ModelSummary | None = None,
    notes: Sequence[str] = (),
) -> page.Page:
    """All that the page shows of some images.

    Args:
        images: uint8, (N, 3, H, W), with their file names and true classes (None where unknown).
        classes: the classes' names.
        summary, twin: the figures of the model, and of its dense twin.
        units: the dissection of the layer that enters the head.
        concepts: what was dissected, for the units' top images.

    Raises:
        InputError: a dissection of another layer, number of units or data set, or images that the model cannot take.
    """
    reader = Reader(model)
    check_units(units, reader.head, reader.maps(images))
    with torch.no_grad():
        reading = reader.read(images)
    x, logits = reading.x.float().cpu().numpy(), reading.logits.float().cpu().numpy()
    maps = None if reading.maps is None else reading.maps.float().cpu().numpy()
    why = reader.maps(images).why
    notes = [*notes, *([f"No heatmaps: {why}."] if why else [])]
    if units is not None and concepts is not None and units.top_images.size:
        _check_data(units, concepts)
        if not dissected_itself(reader, units, concepts):
            notes.append(OTHER_WEIGHTS)
    return page.Page(
        title=title,
        model=summary,
        head=_head(reader.head),
        classes=classes,
        instances=[
            page.Instance(name, image.permute(1, 2, 0).numpy(), x[i], logits[i], truth[i], None if maps is None else maps[i])
            for i, (name, image) in enumerate(zip(names, images, strict=True))
        ],
        units=[] if units is None else _units(model, reader.head, units, concepts),
        compositions=[] if units is None else _compositions(model, units),
        twin=twin,
        notes=notes,
    )


def summarise(name: str, model: nn.Module, accuracy: float | None = None, units: Dissection | None = None) -> page.ModelSummary:
    """A model's line in the overview.

    Args:
        model: any that `explain` takes.
        accuracy: top-1 on held-out images, 0..1.
        units: its dissection.
    """
    weight = find_head(model).effective_weight
    sparse, figures = sparsity(weight), None if units is None else units.summary()
    return page.ModelSummary(
        name=name,
        accuracy=accuracy,
        weights_per_class=sparse.weights_per_class,
        most_weights=sparse.most,
        units=weight.shape[1],
        routed_units=int((weight.abs() >= THRESHOLD).any(dim=0).sum()),
        detectors=None if figures is None else figures.detectors,
        mean_iou=None if figures is None else figures.mean_score,
        covered=None if units is None else share_covered(composition(model, units), FEW),
    )


def dissected_itself(reader: Reader, units: Dissection, concepts: ConceptDataset) -> bool:
    """Whether a dissection is of these weights: some units' top images still excite them as much as it says."""
    held = 0
    # A unit that nothing excites is alike in any network.
    alive = [unit for unit, value in enumerate(units.top_values[:, 0]) if value != 0]
    probed = alive[:: max(1, -(-len(alive) // PROBED))]
    with torch.inference_mode(), evaluating(reader.model), capture(reader.model, units.layer) as taken:
        for unit in probed:
            reader.model(reader.prepare(image_of(concepts, int(units.top_images[unit, 0]))[1][None]))
            peak, said = float(taken.take()[0, unit].max()), float(units.top_values[unit, 0])
            held += abs(peak - said) <= 1e-2 * max(abs(said), 1e-6)
    return 2 * held > len(probed) or not probed


def _head(head: Head) -> page.Head:
    mask = None if head.mask is None else head.mask.cpu().numpy()
    return page.Head(head.weight.float().cpu().numpy(), head.bias.float().cpu().numpy(), head.rule, head.k, mask)


def _units(model: nn.Module, head: Head, units: Dissection, concepts: ConceptDataset | None) -> list[page.Unit]:
    pictures: dict[int, list[page.TopImage]] = {}
    if concepts is not None and units.top_images.size:
        heaviest = head.weight.abs().amax(0).argsort(descending=True)[:PICTURED].tolist()
        for each in examples(model, concepts, units, sorted(heaviest), TOP_IMAGES):
            pictures[each.unit] = [
                page.TopImage(image.permute(1, 2, 0).numpy(), np.asarray(mask))
                for image, mask in zip(each.images, each.masks, strict=True)
            ]
    found = []
    for u, concept in enumerate(concepts_of(units)):
        label, category, score, detector = ("", "", 0.0, False) if concept is None else astuple(concept)
        found.append(page.Unit(u, label, category, score, detector, pictures.get(u, ())))
    return found


def _check_data(units: Dissection, concepts: ConceptDataset) -> None:
    if sorted(concepts.labels) != sorted(units.concepts) or units.top_images.max() >= len(concepts):
        raise InputError(
            f"concepts: {len(concepts)} images of {len(concepts.labels)} labels; give the data that was dissected, "
            f"with {len(units.concepts)} labels and {units.top_images.max() + 1} images or more"
        )


def _compositions(model: nn.Module, units: Dissection) -> list[page.ClassComposition]:
    return [
        page.ClassComposition(
            each.class_name,
            [
                page.ConceptShare(of.label, of.category, of.weight, of.share, [(link.unit, link.weight) for link in of.units])
                for of in each.concepts
            ],
            each.negative,
        )
        for each in composition(model, units)
    ]
