"""The page of explanations in one call: what a network sees in some images, and why it answers as it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import Dissection
from dynamick.explanation.beside import beside as beside_of
from dynamick.explanation.composition import composition, share_covered
from dynamick.explanation.dissected import OTHER_WEIGHTS, check_data, dissected_itself
from dynamick.explanation.explained import Concept
from dynamick.explanation.head import LinearHead, find_head
from dynamick.explanation.instances import check_units, class_names, concepts_of, model_of
from dynamick.explanation.reading import Reader, Seen
from dynamick.explanation.sentence import spoken
from dynamick.explanation.top_images import among, from_dissection
from dynamick.metrics import sparsity
from dynamick.metrics.sparsity import THRESHOLD
from dynamick.networks import OpenNetwork
from dynamick.networks.running import unwrapped
from dynamick.report import explanation as parts
from dynamick.report.explanation import ModelSummary, Page, write_page
from dynamick.report.explanation_parts import digits_of

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
    twin_units: Dissection | None = None,
    summary: ModelSummary | None = None,
    names: Sequence[str] | None = None,
    title: str | None = None,
    assets: str | Path | None = None,
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
        twin: another network, which is shown beside this one on every image: a dense twin, another K, one before an edit. Or
            only its `summarise`.
        twin_units: its dissection.
        summary: the network's figures (`summarise`), if more is known than the network itself says.
        names: the images' names; "image 1" and so on by default.
        title: the page's heading; by default it says how many images there are and how many of them are right.
        assets: a folder for the pictures, beside `out`: a page of hundreds of images stays small. None puts them into the page.
        notes: more sentences for its top.

    Returns:
        All that the page shows, as plain dataclasses.

    Raises:
        InputError: a dissection of another layer, number of units or data set, or images that the network cannot take.
        OSError: the file cannot be written.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> page = dk.explanation.page(model, scenes.images, "page.html", truth=scenes.labels)
    >>> len(page.instances)
    4
    """
    about = summary_of(network, units) if summary is None else summary
    reader = Reader(model_of(network))
    check_units(units, reader.head, reader.maps(images))
    figures, other = twin if isinstance(twin, ModelSummary) else None, None
    if twin is not None and not isinstance(twin, ModelSummary):
        other = Other(Reader(model_of(twin)).see(images), summary_of(twin, twin_units), twin_units)
    known = [None] * len(images) if truth is None else [None if c is None else int(c) for c in truth]
    made = page_of(
        reader.see(images),
        about,
        title=title,
        names=[f"image {i}" for i in range(1, len(images) + 1)] if names is None else names,
        truth=known,
        units=units,
        concepts=concepts,
        twin=figures,
        other=other,
        notes=notes,
    )
    if out is not None:
        write_page(made, out, assets)
    return made


@dataclass(frozen=True)
class Other:
    """Another network on the same images: what it read in them, its figures and its dissection."""

    seen: Seen
    summary: ModelSummary
    units: Dissection | None = None


def page_of(
    seen: Seen,
    summary: ModelSummary,
    *,
    title: str | None,
    names: Sequence[str],
    truth: Sequence[int | None],
    units: Dissection | None = None,
    concepts: ConceptDataset | None = None,
    twin: ModelSummary | None = None,
    other: Other | None = None,
    displayed: Sequence[NDArray[np.uint8]] | None = None,
    notes: Sequence[str] = (),
) -> Page:
    """`page` for images that the network was shown already; nothing is written.

    `displayed`: the images as people are shown them; None takes those that the network was shown.

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
    said = _said(class_names(reader.model, reader.head))
    pictures = [image.permute(1, 2, 0).numpy() for image in seen.images] if displayed is None else displayed
    named = [(spoken(each.label), each) if each is not None else ("", None) for each in _concepts(reader, units)]
    instances = _instances(seen, pictures, names, truth)
    digits = digits_of(each.logits.tolist() for each in instances)
    return Page(
        title=title_of(f"{len(names)} image{'s' if len(names) > 1 else ''}", seen, truth) if title is None else title,
        model=summary,
        head=_head(reader.head),
        classes=[name for name, _ in said],
        instances=instances,
        units=_units(seen, pictures, units, concepts, named),
        compositions=_compositions(reader.model, units, said),
        twin=twin,
        beside=None if other is None else beside_of(other.seen, other.units, other.summary, truth, digits),
        raw={name: raw for name, raw in [*said, *((name, of.label) for name, of in named if of is not None)] if name != raw},
        notes=notes,
    )


def title_of(data: str, seen: Seen, truth: Sequence[int | None]) -> str:
    """A page's heading: the data, and of how many of these images the network is right, if their classes are known.

    Args:
        data: what the images are called.
        seen, truth: the images and their classes.
    """
    if all(each is None for each in truth):
        return f"Decisions on {data}"
    answers = [int(c) for each in seen.batches for c in each.logits.argmax(1)]
    known = [c == t for c, t in zip(answers, truth, strict=True) if t is not None]
    return f"{data}, {sum(known)} of {len(known)} right"


def summarise(name: str, model: nn.Module, accuracy: float | None = None, units: Dissection | None = None) -> ModelSummary:
    """A model's line in the overview.

    Args:
        model: any that `explain` takes.
        accuracy: top-1 on held-out images, 0..1.
        units: its dissection.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> dk.explanation.summarise("my network", model, accuracy=0.9).units
    32
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


def _said(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each class as people say it, and raw. Two that would be said alike stay raw."""
    said = [spoken(name) for name in names]
    return [(name if said.count(name) == 1 else raw, raw) for name, raw in zip(said, names, strict=True)]


def _concepts(reader: Reader, units: Dissection | None) -> list[Concept | None]:
    return [None] * reader.head.weight.shape[1] if units is None else concepts_of(units)


def _instances(
    seen: Seen, pictures: Sequence[NDArray[np.uint8]], names: Sequence[str], truth: Sequence[int | None]
) -> list[parts.Instance]:
    made: list[parts.Instance] = []
    for reading in seen.batches:
        x, logits = reading.x.float().cpu().numpy(), reading.logits.float().cpu().numpy()
        maps = [None] * len(x) if reading.maps is None else list(reading.maps.float().cpu().numpy())
        for row, (values, scores, split) in enumerate(zip(x, logits, maps, strict=True), start=len(made)):
            made.append(parts.Instance(names[row], pictures[row], values, scores, truth[row], split))
    return made


def _head(head: LinearHead) -> parts.HeadNumbers:
    mask = None if head.mask is None else head.mask.cpu().numpy()
    return parts.HeadNumbers(head.weight.float().cpu().numpy(), head.bias.float().cpu().numpy(), head.rule, head.k, mask)


def _units(
    seen: Seen,
    displayed: Sequence[NDArray[np.uint8]],
    units: Dissection | None,
    concepts: ConceptDataset | None,
    named: Sequence[tuple[str, Concept | None]],
) -> list[parts.Unit]:
    """Every unit with its top images: from the dissected data if it is given, else among the explained images."""
    reader = seen.reader
    pictures: dict[int, list[parts.TopImage]] = {}
    if units is not None and concepts is not None and units.top_images.size:
        pictures = from_dissection(reader, units, concepts)
    used = (reader.head.effective_weight.abs().amax(0) >= THRESHOLD).nonzero().flatten().tolist()
    pictures |= among(seen, displayed, [unit for unit in used if unit not in pictures])
    nothing = ("", None if units is None else 0.0, False)
    found = []
    for u, (label, concept) in enumerate(named):
        about = nothing if concept is None else (concept.category, concept.score, concept.detector)
        found.append(parts.Unit(u, label, *about, pictures.get(u, ())))
    return found


def _compositions(model: nn.Module, units: Dissection | None, said: Sequence[tuple[str, str]]) -> list[parts.ClassComposition]:
    return [
        parts.ClassComposition(
            name,
            [
                parts.ConceptShare(of.label, of.category, of.weight, of.share, [(link.index, link.weight) for link in of.units])
                for of in each.concepts
            ],
            each.negative,
        )
        for each, (name, _) in zip(composition(model, units), said, strict=True)
    ]
