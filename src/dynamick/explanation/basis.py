"""The three ways to explain (the paper's Fig. 7), from two models and a data set of concepts: numbers and a figure."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.backend_bases import FigureCanvasBase
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dynamick.data.concepts import ConceptDataset, image_of, maps_of
from dynamick.errors import InputError
from dynamick.explanation.ibd import ConceptBasis, learn_concepts
from dynamick.explanation.maps import NONLINEAR
from dynamick.explanation.reading import Reader
from dynamick.explanation.threeway import WAYS, ThreeWays, draw

CATEGORIES = ("object", "part", "concept")
"""IBD learns concept vectors of objects and parts (docs/definitions.md); a folder of people's own masks has `concept`."""

DRAWN = 4
"""So many images are in the figure."""
PENALTY = 0.1
"""Of the concepts' regressions, unless another is given. Weaker ones tell concepts apart a little better, by units that hardly
vary; then next to nothing of a class's score lies along the concepts, and IBD would be compared with at its worst."""


def check_figure(path: Path) -> None:
    """Raise InputError unless matplotlib writes figures of this suffix."""
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InputError(f"{path}: a figure's name must end in one of .{', .'.join(sorted(known))}")


def draw_some(ways: ThreeWays, images: Tensor, path: Path) -> None:
    """Write the figure of a few of the images, spread evenly: from folders they come class by class.

    Raises:
        OSError: the file cannot be written.
    """
    places = [n * len(images) // DRAWN for n in range(DRAWN)] if len(images) > DRAWN else list(range(len(images)))
    draw(replace(ways, images=[ways.images[place] for place in places]), path, images[places])


def table(ways: ThreeWays) -> str:
    """The median residual of each way."""
    residuals = ways.residuals()
    # Adding 0.0 makes a rounded -0.0 a plain zero.
    cells = ["none" if (left := residuals[name]) is None else f"{round(left, 3) + 0.0:.1%}" for name in WAYS]
    rows = [f"{name:14} {cell:>9}" for name, cell in zip(WAYS, cells, strict=True)]
    return "\n".join([f"{'way':14} {'residual':>9}  (median over {len(ways.images)} images, of the sum over all units)", *rows])


def learn_basis(model: nn.Module | Reader, concepts: ConceptDataset, batch_size: int = 64, **options: Any) -> ConceptBasis:
    """Concept vectors in a model's last maps, of all objects and parts of a data set.

    Args:
        model: any that `explain` takes, or a `Reader` of it.
        concepts: images with label maps.
        options: as `learn_concepts`.

    Raises:
        InputError: the data set labels neither, its images do not fit together, or the model's maps are not found.
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
