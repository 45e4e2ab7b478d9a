"""Labelled images: what trainings, evaluations and comparisons read, whatever the source."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

Moments = tuple[tuple[float, float, float], tuple[float, float, float]]


class Loader(Protocol):
    """Batches of images, uint8 (B, 3, H, W), and their labels, int64 (B,)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class LabelledImages(Protocol):
    """Images of one split, each of one class.

    classes: the names of the classes; a label counts from the first one.
    labels: int64, shape (N,); where an image has several labels, or none, 0 and 1 of shape (N, classes).
    names: one for each image: its file below its split's folder, or such as `scene 3`.
    side: height and width of an image in pixels.
    in_memory: the images are decoded already, and can be moved to a device.

    >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> data: dk.data.LabelledImages = dk.data.ImageTensors(pixels, torch.tensor([0, 1]), ["cat", "dog"])
    >>> data.classes[data.labels[1]]
    'dog'
    """

    @property
    def classes(self) -> list[str]: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def names(self) -> list[str]: ...

    @property
    def side(self) -> int: ...

    @property
    def in_memory(self) -> bool: ...

    def __len__(self) -> int: ...

    def take(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Some images and their labels: uint8 (n, 3, H, W), int64 (n,)."""

    def batches(self, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0) -> Loader:
        """All images in order, as they are.

        Args:
            batch_size: of all processes together.
            rank, world: of each batch, this process takes every world-th image, from its rank on.
            workers: processes that decode; 0 decodes in this one.
        """

    def training_batches(
        self, batch_size: int, seed: int = 0, epoch: int = 0, rank: int = 0, world: int = 1, workers: int = 0
    ) -> Loader:
        """Augmented images in a new order, without an incomplete last batch; seed and epoch alone decide both.

        Raises:
            InputError: a batch would be larger than the whole set.
        """

    def moments(self) -> Moments | None:
        """Mean and deviation of each channel in 0..1; None if that would mean to decode every image."""

    def to(self, device: torch.device) -> "LabelledImages":
        """The same images, on a device if they are in memory."""

    def resized(self, side: int) -> "LabelledImages":
        """The same images with another side in pixels."""

    def fingerprint(self) -> str:
        """A checksum: of values where the images are in memory, else of files, their sizes and times of change."""
