"""Labelled images in memory, and the batches drawn from them: their order and augmentation depend on seed and epoch alone."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.data.labelled import Moments
from dynamick.errors import InputError
from dynamick.seeding import seed_of


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, drawn anew for each.

    Attributes:
        pad: pixels of zeros added on every side before a crop of the first size at a random place.
        flip: left and right are swapped in every second image.

    >>> dk.data.Augmentation(pad=4, flip=True)
    Augmentation(pad=4, flip=True)
    """

    pad: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment uint8 images (B, 3, H, W) by their draws: uniform in 0..1, shape (B, 3), for row, column and flip."""
        if not (self.pad or self.flip):
            return images
        (B, C, H, W), device = images.shape, images.device
        draws = draws.to(device)
        offset = (draws[:, :2] * (2 * self.pad + 1)).long()
        rows = offset[:, :1] + torch.arange(H, device=device)
        columns = offset[:, 1:] + torch.arange(W, device=device)
        if self.flip:
            columns = torch.where(draws[:, 2:] < 0.5, columns, columns.flip(1))
        padded = F.pad(images, (self.pad,) * 4)
        place = (torch.arange(B, device=device)[:, None, None, None], torch.arange(C, device=device)[:, None, None])
        return padded[*place, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass
class ImageTensors:
    """Labelled images, decoded, as `dynamick.data.LabelledImages`.

    Attributes:
        images: uint8, shape (N, 3, H, W), RGB.
        labels: int64, shape (N,).
        classes: their names.
        names: one for each image; by default `image 0` and so on.
        augmentation: of training batches; None shows every image as it is.

    >>> data = dk.data.ImageTensors(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ["cat", "dog"])
    >>> data.side, data.names
    (8, ['image 0', 'image 1'])
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    names: list[str] = field(default_factory=list)
    augmentation: Augmentation | None = None
    in_memory = True

    def __post_init__(self) -> None:
        self.names = self.names or [f"image {place}" for place in range(len(self))]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """In pixels."""
        return self.images.shape[-1]

    def take(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Some images and their labels: uint8 (n, 3, H, W), int64 (n,)."""
        return self.images[list(places)], self.labels[list(places)]

    def batches(self, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0) -> "Batches":
        """All images in order, as they are; no process decodes."""
        return Batches(self, batch_size, rank=rank, world=world)

    def training_batches(
        self, batch_size: int, seed: int = 0, epoch: int = 0, rank: int = 0, world: int = 1, workers: int = 0
    ) -> "Batches":
        """Augmented images in a new order, whole batches only; seed and epoch alone decide both."""
        return Batches(self, batch_size, seed, epoch, self.augmentation, True, rank, world)

    def moments(self) -> Moments:
        """Mean and deviation of each channel over all images, in 0..1, rounded to four places."""
        channels = (self.images[:, channel].flatten() for channel in range(3))
        counts = torch.stack([torch.bincount(values, minlength=256) for values in channels]).double().cpu()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts @ values) / counts.sum(1)
        std = ((counts @ values**2) / counts.sum(1) - mean**2).clamp(min=1e-8).sqrt()
        red, green, blue = (round(float(m), 4) for m in mean)
        of_red, of_green, of_blue = (max(1e-4, round(float(s), 4)) for s in std)
        return (red, green, blue), (of_red, of_green, of_blue)

    def to(self, device: torch.device) -> "ImageTensors":
        """The same images on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def resized(self, side: int) -> "ImageTensors":
        """The same images with another side in pixels, bilinear with antialiasing."""
        resize = partial(F.interpolate, size=(side, side), mode="bilinear", antialias=True)
        parts = [resize(part.float()).round().clamp(0, 255).byte() for part in self.images.split(1024)]
        return replace(self, images=torch.cat(parts))

    def fingerprint(self) -> str:
        """A checksum of all values."""
        sha = describe(self.classes, self.labels)
        sha.update(str(tuple(self.images.shape)).encode())
        sha.update(self.images.cpu().contiguous().numpy().data)
        return sha.hexdigest()


def describe(classes: list[str], labels: Tensor) -> Any:
    """A checksum of labels, SHA-256. The images are still to be added to it."""
    sha = hashlib.sha256(json.dumps(list(classes)).encode())
    sha.update(labels.cpu().numpy().tobytes())
    return sha


def check_batch(size: int, images: int) -> None:
    """Raise InputError unless there are enough training images for one batch."""
    if size > images:
        raise InputError(f"batch_size: {size} is more than the {images} training images; give {images} or fewer")


def check_same_classes(root: str | Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Raise InputError unless both splits hold the same classes in the same order."""
    if list(train) != list(val):
        odd = ", ".join(sorted(set(train) ^ set(val))[:5]) or "in another order"
        if [normalize("NFC", name) for name in train] == [normalize("NFC", name) for name in val]:
            odd = f"{odd}: letters with accents are written as one sign here, as two there"
        raise InputError(f"{root}: train and val hold different classes ({odd}); give both the same")


def evenly_spaced(count: int, most: int) -> list[int]:
    """The places of some of `count` images: at most so many, evenly spaced from the first to the end."""
    number = min(count, most)
    return [place * count // number for place in range(number)]


class Batches:
    """Batches of (images uint8, labels): the same for a seed and an epoch, however many processes share them.

    Args:
        data: the images; batches lie on their device.
        batch_size: of all processes together.
        seed, epoch: they alone decide the order and the augmentation.
        augmentation: None shows every image as it is.
        shuffle: draw a new order, and leave an incomplete last batch out.
        rank, world: of each batch, this process takes every world-th image, from its rank on.

    Raises:
        InputError: shuffled batches that are larger than the whole set.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> data = dk.data.ImageTensors(scenes.images, scenes.labels, scenes.classes)
    >>> [len(labels) for images, labels in dk.data.Batches(data, batch_size=8)]
    [8, 8, 4]
    """

    def __init__(
        self,
        data: ImageTensors,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if shuffle:
            check_batch(batch_size, len(data))
        self.data, self.batch_size, self.augmentation, self.shuffle = data, batch_size, augmentation, shuffle
        self.seed, self.epoch, self.rank, self.world = seed, epoch, rank, world

    def __len__(self) -> int:
        return len(self.data) // self.batch_size if self.shuffle else -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed_of((self.seed << 20) + self.epoch))
        order = torch.randperm(len(self.data), generator=generator) if self.shuffle else torch.arange(len(self.data))
        for number in range(len(self)):
            whole = order[number * self.batch_size : (number + 1) * self.batch_size]
            draws = torch.rand(len(whole), 3, generator=generator)[self.rank :: self.world]
            chosen = whole[self.rank :: self.world].to(self.data.labels.device)
            images = self.data.images[chosen]
            if self.augmentation is not None:
                images = self.augmentation(images, draws)
            yield images, self.data.labels[chosen]
