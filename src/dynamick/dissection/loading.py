"""Parts of a data set's samples, batch by batch: images for the model, label maps for the counts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamick.data.concepts import ConceptDataset
from dynamick.errors import InputError

Part = Callable[[ConceptDataset, int], tuple[str, Any]]


def name_of(dataset: ConceptDataset, index: int) -> str:
    """Name of a sample; a data set that has `name(index)` says it without decoding anything."""
    name = getattr(dataset, "name", None)
    return str(name(index)) if callable(name) else f"image {index}"


def image_of(dataset: ConceptDataset, index: int) -> tuple[str, Tensor]:
    """Name and image of a sample; a data set that has `image(index)` need not decode the label maps for it."""
    image = getattr(dataset, "image", None)
    if callable(image):
        return name_of(dataset, index), image(index)
    sample = dataset[index]
    return sample.name, sample.image


def maps_of(dataset: ConceptDataset, index: int) -> tuple[str, dict[str, Tensor]]:
    """Name and label maps of a sample; a data set that has `maps(index)` need not decode the image for it."""
    maps = getattr(dataset, "maps", None)
    if callable(maps):
        return name_of(dataset, index), maps(index)
    sample = dataset[index]
    return sample.name, sample.maps


def load(
    dataset: ConceptDataset, part: Part, batches: Sequence[int], batch_size: int, workers: int
) -> Iterator[list[tuple[str, Any]]]:
    """One part of each sample of the given batches; batch b holds samples b * batch_size up to the next batch's first."""
    places = [[*range(batch * batch_size, min((batch + 1) * batch_size, len(dataset)))] for batch in batches]
    # A generator of its own: a dissection between two epochs must not change what the training draws next.
    own = torch.Generator()
    try:
        yield from DataLoader(_Parts(dataset, part), batch_sampler=places, num_workers=workers, collate_fn=list, generator=own)
    except InputError as error:
        # From another process it comes with that process's traceback, whose last line says what is wrong.
        raise InputError(str(error).splitlines()[-1].removeprefix("dynamick.errors.InputError: ")) from error


class _Parts(Dataset[tuple[str, Any]]):
    def __init__(self, dataset: ConceptDataset, part: Part) -> None:
        self.dataset, self.part = dataset, part

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return self.part(self.dataset, index)
