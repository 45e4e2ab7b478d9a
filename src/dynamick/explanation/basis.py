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
from dynamick.dissection import Dissection
from dynamick.errors import InputError
from dynamick.explanation.head import NONLINEAR, Reader
from dynamick.explanation.ibd import ConceptBasis, learn_concepts
from dynamick.explanation.threeway import WAYS, ThreeWays, draw, three_ways

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


def write_three_ways(
    dense: nn.Module,
    dynamic: nn.Module,
    images: Tensor,
    concepts: ConceptDataset,
    dense_units: Dissection | None,
    dynamic_units: Dissection | None,
    path: Path,
    penalty: float = PENALTY,
) -> ThreeWays:
    """Learn concept vectors on the dense model, explain the images in three ways, and write the figure.

    Raises:
        InputError: as `learn_basis` and `three_ways`.
    """
    basis = learn_basis(dense, concepts, penalty=penalty)
    ways = three_ways(dense, dynamic, images, basis, dense_units, dynamic_units)
    # Images come class by class from folders; the figure shows some of all.
    places = [n * len(images) // DRAWN for n in range(DRAWN)] if len(images) > DRAWN else list(range(len(images)))
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        draw(replace(ways, images=[ways.images[place] for place in places]), partial, images[places])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return ways


def table(ways: ThreeWays) -> str:
    """The median residual of each way."""
    residuals = ways.residuals()
    # Adding 0.0 makes a rounded -0.0 a plain zero.
    cells = ["none" if (left := residuals[name]) is None else f"{round(left, 3) + 0.0:.1%}" for name in WAYS]
    rows = [f"{name:14} {cell:>9}" for name, cell in zip(WAYS, cells, strict=True)]
    return "\n".join([f"{'way':14} {'residual':>9}  (median over {len(ways.images)} images, of the sum over all units)", *rows])


def learn_basis(model: nn.Module, concepts: ConceptDataset, batch_size: int = 64, **options: Any) -> ConceptBasis:
    """Concept vectors in a model's last maps, of all objects and parts of a data set.

    Args:
        options: as `learn_concepts`.

    Raises:
        InputError: the data set labels neither, its images do not fit together, or the model's maps are not found.
    """
    names = {label.number: label.name for label in concepts.labels if label.category in CATEGORIES}
    if not names:
        raise InputError(f"concepts: categories {', '.join(concepts.categories)}; IBD needs one of {', '.join(CATEGORIES)}")
    return learn_concepts(_batches(model, concepts, batch_size), names, **options)


def _batches(model: nn.Module, concepts: ConceptDataset, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    reader = Reader(model, preprocess=None)
    preprocess = getattr(model, "preprocessing", None) or (lambda images: images)
    for start in range(0, len(concepts), batch_size):
        places = range(start, min(start + batch_size, len(concepts)))
        images = []
        for name, image in (image_of(concepts, place) for place in places):
            images.append(preprocess(image[None]))
            if images[-1].shape != images[0].shape:
                raise InputError(f"{name}: its size differs from the others', and the model's preprocessing has no size")
        maps = reader.read(torch.cat(images)).maps
        if maps is None:
            raise InputError(f"IBD: {NONLINEAR}")
        labels = [_labels(maps_of(concepts, place)[1], concepts.map_size) for place in places]
        yield maps, pad_sequence(labels, batch_first=True)


def _labels(maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    """All of an image's label maps in the categories, (L, H, W), at least one."""
    found = [maps[category].expand(-1, *size) for category in CATEGORIES if category in maps]
    return torch.cat(found) if found else torch.zeros(1, *size, dtype=torch.int32)
