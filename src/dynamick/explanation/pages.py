"""The page of explanations in one call: what a network sees in some images, and why it answers as it does."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import Dissection
from dynamick.dissection.gallery import examples
from dynamick.explanation.composition import composition, share_covered
from dynamick.explanation.dissected import OTHER_WEIGHTS, check_data, dissected_itself
from dynamick.explanation.head import LinearHead, find_head
from dynamick.explanation.instances import check_units, class_names, concepts_of
from dynamick.explanation.reading import Reader, Seen
from dynamick.metrics import sparsity
from dynamick.metrics.sparsity import THRESHOLD
from dynamick.networks import OpenNetwork
from dynamick.networks.running import unwrapped
from dynamick.report import explanation as parts
from dynamick.report.explanation import ModelSummary, Page, write_page

TOP_IMAGES = 4
PICTURED = 64
"""How many units are shown with top images: those of the largest weights."""
FEW_CONCEPTS = 5
"""A person can keep a class of at most this many concepts in mind (the paper: more than 95 % of classes)."""


def page(
    network: nn.Module | OpenNetwork,
    images: Tensor,
    out: str | Path | None = None,
    units: Dissection | None = None,
    *,
    concepts: ConceptDataset | None = None,
    truth: Sequence[int | None] | Tensor | None = None,
    twin: nn.Module | OpenNetwork | ModelSummary | None = None,
    summary: ModelSummary | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
) -> Page:
    """Explain some images on a page: one HTML file that opens offline and in which units can be switched off.

    Args:
        network: as `dynamick.open_network` opens it, or any that `explain` takes. Its `classes` give the classes' names.
        images: uint8, (N, 3, H, W).
        out: the file to write, whole or not at all; None writes nothing.
        units: the dissection of the layer that enters the head. It gives the units their names.
        concepts: the data that was dissected. The units' top images come from it.
        truth: the images' true classes, by index; None if one is not known.
        twin: a dense network (or its `summarise`) whose figures are shown beside this one's.
        summary: the network's figures (`summarise`), if more is known than the network itself says.
        names: the images' names; "image 1" and so on by default.
        title: the page's heading.
        notes: more sentences for its top.

    Returns:
        All that the page shows, as plain dataclasses.

    Raises:
        InputError: a dissection of another layer, number of units or data set, or images that the network cannot take.
        OSError: the file cannot be written.
    """
    about = summary_of(network, units) if summary is None else summary
    reader = Reader(network.model if isinstance(network, OpenNetwork) else network)
    check_units(units, reader.head, reader.maps(images))
    made = page_of(
        reader.see(images),
        about,
        title=f"What {about.name} sees" if title is None else title,
        names=[f"image {i}" for i in range(1, len(images) + 1)] if names is None else names,
        truth=[None] * len(images) if truth is None else [None if c is None else int(c) for c in truth],
        units=units,
        concepts=concepts,
        twin=twin if twin is None or isinstance(twin, ModelSummary) else summary_of(twin),
        notes=notes,
    )
    if out is not None:
        write_page(made, out)
    return made


def page_of(
    seen: Seen,
    summary: ModelSummary,
    *,
    title: str,
    names: Sequence[str],
    truth: Sequence[int | None],
    units: Dissection | None = None,
    concepts: ConceptDataset | None = None,
    twin: ModelSummary | None = None,
    notes: Sequence[str] = (),
) -> Page:
    """`page` for images that the network was shown already, without defaults; nothing is written.

    Raises:
        InputError: as `page`.
    """
    reader, why = seen.reader, seen.where.why
    check_units(units, reader.head, seen.where)
    notes = [*notes, *([f"No heatmaps: {why}."] if why else [])]
    if units is not None and concepts is not None and units.top_images.size:
        check_data(units, concepts)
        if not dissected_itself(reader, units, concepts):
            notes.append(OTHER_WEIGHTS)
    return Page(
        title=title,
        model=summary,
        head=_head(reader.head),
        classes=class_names(reader.model, reader.head),
        instances=_instances(seen, names, truth),
        units=[] if units is None else _units(reader, units, concepts),
        compositions=[] if units is None else _compositions(reader.model, units),
        twin=twin,
        notes=notes,
    )


def summarise(name: str, model: nn.Module, accuracy: float | None = None, units: Dissection | None = None) -> ModelSummary:
    """A model's line in the overview.

    Args:
        model: any that `explain` takes.
        accuracy: top-1 on held-out images, 0..1.
        units: its dissection.
    """
    weight = find_head(model).effective_weight
    sparse, figures = sparsity(weight), None if units is None else units.summary()
    return ModelSummary(
        name=name,
        accuracy=accuracy,
        weights_per_class=sparse.weights_per_class,
        most_weights=sparse.max_per_class,
        units=weight.shape[1],
        routed_units=int((weight.abs() >= THRESHOLD).any(dim=0).sum()),
        detectors=None if figures is None else figures.detectors,
        mean_iou=None if figures is None else figures.mean_score,
        covered=None if units is None else share_covered(composition(model, units), FEW_CONCEPTS),
    )


def summary_of(network: nn.Module | OpenNetwork, units: Dissection | None = None) -> ModelSummary:
    """`summarise` by what the network says of itself: its name, and its accuracy where its training measured one."""
    if isinstance(network, OpenNetwork):
        return summarise(network.name, network.model, network.accuracy, units)
    return summarise(type(unwrapped(network)).__name__, network, None, units)


def _instances(seen: Seen, names: Sequence[str], truth: Sequence[int | None]) -> list[parts.Instance]:
    made: list[parts.Instance] = []
    for reading in seen.batches:
        x, logits = reading.x.float().cpu().numpy(), reading.logits.float().cpu().numpy()
        maps = [None] * len(x) if reading.maps is None else list(reading.maps.float().cpu().numpy())
        for row, (values, scores, split) in enumerate(zip(x, logits, maps, strict=True), start=len(made)):
            pixels = seen.images[row].permute(1, 2, 0).numpy()
            made.append(parts.Instance(names[row], pixels, values, scores, truth[row], split))
    return made


def _head(head: LinearHead) -> parts.HeadNumbers:
    mask = None if head.mask is None else head.mask.cpu().numpy()
    return parts.HeadNumbers(head.weight.float().cpu().numpy(), head.bias.float().cpu().numpy(), head.rule, head.k, mask)


def _units(reader: Reader, units: Dissection, concepts: ConceptDataset | None) -> list[parts.Unit]:
    pictures: dict[int, list[parts.TopImage]] = {}
    if concepts is not None and units.top_images.size:
        heaviest = reader.head.weight.abs().amax(0).argsort(descending=True)[:PICTURED].tolist()
        for each in examples(reader.model, concepts, units, sorted(heaviest), TOP_IMAGES):
            pictures[each.index] = [
                parts.TopImage(image.permute(1, 2, 0).numpy(), np.asarray(mask))
                for image, mask in zip(each.images, each.masks, strict=True)
            ]
    found = []
    for u, concept in enumerate(concepts_of(units)):
        label, category, score, detector = ("", "", 0.0, False) if concept is None else astuple(concept)
        found.append(parts.Unit(u, label, category, score, detector, pictures.get(u, ())))
    return found


def _compositions(model: nn.Module, units: Dissection) -> list[parts.ClassComposition]:
    return [
        parts.ClassComposition(
            each.class_name,
            [
                parts.ConceptShare(of.label, of.category, of.weight, of.share, [(link.index, link.weight) for link in of.units])
                for of in each.concepts
            ],
            each.negative,
        )
        for each in composition(model, units)
    ]
