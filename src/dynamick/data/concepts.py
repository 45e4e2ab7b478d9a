"""What Network Dissection reads: images with label maps. Anything of this form can be dissected."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dynamick.data.in_memory import evenly_spaced
from dynamick.errors import InputError
from dynamick.preprocessing import check_range, check_type

CHANNELS = (1, 3)
"""Of an image: grey, or red, green and blue."""


class Label(NamedTuple):
    """A concept: its number (from 1 up), its name and the category that it belongs to.

    >>> dk.data.Label(1, "wing", "part").name
    'wing'
    """

    number: int
    name: str
    category: str


class Sample(NamedTuple):
    """One image with its labels.

    image: uint8, shape (3, H, W), RGB.
    maps: category -> int32, shape (L, h, w): L pixel maps of label numbers, 0 where a pixel is unlabelled. A label of the
        whole image is a map of shape (1, 1, 1) and counts as every pixel; so a category's maps are all of one shape, and
        a category that labels nothing in the image is absent.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> sample = dk.data.Broden("scenes")[0]
    >>> sample.image.dtype, sorted(sample.maps)
    (torch.uint8, ['part', 'scene'])
    """

    name: str
    image: Tensor
    maps: dict[str, Tensor]


class ConceptDataset(Protocol):
    """A data set that `dynamick.dissection.dissect` takes.

    It may also have `name(index)`, `image(index)` and `maps(index)`, which give a part of a sample without decoding the rest,
    and `fingerprint()`, a checksum of its files.

    labels: all concepts; a label that is used in several categories names the one of its largest coverage.
    categories: names, in the order of the columns of tally.csv.
    map_size: height and width in pixels of label maps, to which activations are upsampled.
    """

    @property
    def labels(self) -> Sequence[Label]: ...

    @property
    def categories(self) -> Sequence[str]: ...

    @property
    def map_size(self) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def name_of(dataset: ConceptDataset, index: int) -> str:
    """Name of a sample. If the data set has `name(index)`, nothing is decoded for it."""
    name = getattr(dataset, "name", None)
    return str(name(index)) if callable(name) else f"image {index}"


def image_of(dataset: ConceptDataset, index: int) -> tuple[str, Tensor]:
    """Name and image of a sample. If the data set has `image(index)`, its label maps are not decoded.

    Raises:
        InputError: the image is neither uint8 nor floating point in 0..1, or of another shape; it names the sample.
    """
    alone = getattr(dataset, "image", None)
    if callable(alone):
        name, image = name_of(dataset, index), alone(index)
    else:
        sample = dataset[index]
        name, image = sample.name, sample.image
    check_type(image, name)
    if image.ndim != 3 or image.shape[0] not in CHANNELS:
        raise InputError(f"{name}: its image is of shape {tuple(image.shape)}; give (3, H, W)")
    check_range(image, name)
    return name, image


def some_images(dataset: ConceptDataset, count: int = 16) -> Tensor:
    """Some images, evenly spaced, of the first one's size: (n, 3, H, W), at most `count`."""
    images = [image_of(dataset, place)[1] for place in evenly_spaced(len(dataset), count)]
    return torch.stack([each for each in images if each.shape == images[0].shape])


def maps_of(dataset: ConceptDataset, index: int) -> tuple[str, dict[str, Tensor]]:
    """Name and label maps of a sample. If the data set has `maps(index)`, the image is not decoded.

    Raises:
        InputError: a map is no tensor, or is of none of the data set's categories; it names the sample.
    """
    alone = getattr(dataset, "maps", None)
    if callable(alone):
        name, maps = name_of(dataset, index), alone(index)
    else:
        sample = dataset[index]
        name, maps = sample.name, sample.maps
    for category, labels in maps.items():
        if not isinstance(labels, Tensor):
            raise InputError(
                f"{name}: the {category} labels are a {type(labels).__name__}; give a tensor of shape (maps, h, w)"
            )
        if category not in dataset.categories:
            there = ", ".join(dataset.categories)
            raise InputError(f"{name}: labelled in {category}, which is none of the data set's categories ({there})")
    return name, maps


def part(dataset: ConceptDataset, places: Sequence[int]) -> ConceptDataset:
    """Some images of a data set, in the order of their places, as a data set of their own.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> len(dk.data.part(dk.data.Broden("scenes"), [3, 1]))
    2
    """
    return _Part(dataset, places)


class _Part:
    def __init__(self, whole: ConceptDataset, places: Sequence[int]) -> None:
        self.whole, self.places = whole, places
        self.labels, self.categories, self.map_size = whole.labels, whole.categories, whole.map_size

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.places[index]]

    def name(self, index: int) -> str:
        return name_of(self.whole, self.places[index])

    def image(self, index: int) -> Tensor:
        return image_of(self.whole, self.places[index])[1]

    def maps(self, index: int) -> dict[str, Tensor]:
        return maps_of(self.whole, self.places[index])[1]
