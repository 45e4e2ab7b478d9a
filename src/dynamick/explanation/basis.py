"""The three ways to explain (the paper's Fig. 7), from two models and a data set of concepts: numbers and a figure."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dynamick.data.concepts import ConceptDataset, image_of, maps_of
from dynamick.errors import InputError
from dynamick.explanation.ibd import ConceptBasis, learn_concepts
from dynamick.explanation.maps import NONLINEAR
from dynamick.explanation.reading import Reader

CATEGORIES = ("object", "part", "concept")
"""IBD learns concept vectors of objects and parts (docs/definitions.md); a folder of people's own masks has `concept`."""

PENALTY = 0.1
"""The usual penalty of the concepts' regressions. With a weaker one, units that hardly vary tell concepts apart slightly
better. But then almost nothing of a class's score is along the concepts, and IBD would be shown at its worst."""


def learn_basis(model: nn.Module | Reader, concepts: ConceptDataset, batch_size: int = 64, **options: Any) -> ConceptBasis:
    """Concept vectors in a model's last maps, of all objects and parts of a data set.

    Args:
        model: any that `explain` takes, or a `Reader` of it.
        concepts: images with label maps.
        options: as `learn_concepts`.

    Raises:
        InputError: the data set has neither labels, its images do not fit together, or the model's maps are not found.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> scenes.write_broden("scenes")
    >>> basis = dk.explanation.learn_basis(model, dk.data.Broden("scenes"), minimum=1)
    >>> "wing" in basis.names
    True
    """
    names = {label.number: label.name for label in concepts.labels if label.category in CATEGORIES}
    if not names:
        raise InputError(f"concepts: categories {', '.join(concepts.categories)}; IBD needs one of {', '.join(CATEGORIES)}")
    reader = model if isinstance(model, Reader) else Reader(model)
    return learn_concepts(_batches(reader, concepts, batch_size), names, **options)


def _batches(reader: Reader, concepts: ConceptDataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    where = reader.maps(image_of(concepts, 0)[1][None])
    for start in range(0, len(concepts), batch_size):
        places = range(start, min(start + batch_size, len(concepts)))
        images = []
        for name, image in (image_of(concepts, place) for place in places):
            images.append(reader.prepare(image[None]))
            if images[-1].shape != images[0].shape:
                raise InputError(f"{name}: its size differs from the others', and the model's preprocessing has no size")
        maps = reader.read_prepared(torch.cat(images), where).maps
        if maps is None:
            raise InputError(f"IBD: {NONLINEAR}")
        labels = [_labels(maps_of(concepts, place)[1], concepts.map_size) for place in places]
        yield maps, pad_sequence(labels, batch_first=True)


def _labels(maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """All of an image's label maps in the categories, (L, H, W), at least one."""
    found = [maps[category].expand(-1, *size) for category in CATEGORIES if category in maps]
    return torch.cat(found) if found else torch.zeros(1, *size, dtype=torch.int32)
