"""What Network Dissection reads: images with label maps. Anything of this form can be dissected."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Label(NamedTuple):
    """A concept: its number (from 1 up), its name and the category that it belongs to."""

    number: int
    name: str
    category: str


class Sample(NamedTuple):
    """One image with its labels.

    image: uint8, shape (3, H, W), RGB.
    maps: category -> int32, shape (L, h, w): L pixel maps of label numbers, 0 where a pixel is unlabelled. A label of the
        whole image is a map of shape (1, 1, 1) and counts as every pixel; so a category's maps are all of one shape, and
        a category that labels nothing in the image is absent.
    """

    name: str
    image: Tensor
    maps: dict[str, Tensor]


class ConceptDataset(Protocol):
    """A data set that `dynamick.dissection.dissect` takes.

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
