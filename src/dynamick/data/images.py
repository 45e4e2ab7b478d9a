"""Labelled images in memory, and the batches drawn from them: their order and augmentation depend on seed and epoch alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dynamick.data import decode
from dynamick.errors import InputError
from dynamick.seeding import seed_of
from dynamick.torchvision_shim import torchvision

IMAGES = (*torchvision.datasets.folder.IMG_EXTENSIONS, ".gif")
"""How the names of image files end, in lower case."""


def is_image(path: str | Path) -> bool:
    """Whether a file is called as an image is, and not hidden."""
    name = Path(path).name
    return name.lower().endswith(IMAGES) and not name.startswith(".")


@dataclass
class ImageTensors:
    """Labelled images, decoded.

    Attributes:
        images: uint8, shape (N, 3, H, W), RGB.
        labels: int64, shape (N,).
        classes: their names.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "ImageTensors":
        """The same images on a device."""
        return ImageTensors(self.images.to(device), self.labels.to(device), self.classes)


def check_same_classes(root: str | Path, train: Sequence[str], val: Sequence[str]) -> None:
    """Raise InputError unless both splits hold the same classes in the same order."""
    if list(train) != list(val):
        odd = ", ".join(sorted(set(train) ^ set(val))[:5]) or "in another order"
        raise InputError(f"{root}: train and val hold different classes ({odd}); give both the same")


def take(data: "ImageTensors | FolderImages", places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Some images and their labels: uint8 (n, 3, H, W), int64 (n,)."""
    if isinstance(data, ImageTensors):
        return data.images[list(places)], data.labels[list(places)]
    images, labels = zip(*(data[place] for place in places), strict=True)
    return torch.stack(images), torch.tensor(labels)


def evenly_spaced(count: int, most: int) -> list[int]:
    """The places of those of `count` images that stand for all: at most so many, evenly spaced from the first on to the end."""
    number = min(count, most)
    return [place * count // number for place in range(number)]


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images, drawn anew for each.

    Attributes:
        pad: pixels of zeros added on every side before a crop of the first size at a random place.
        flip: left and right are swapped in every second image.
    """

    pad: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment uint8 images (B, 3, H, W) by their draws: uniform in 0..1, shape (B, 3), for row, column and flip."""
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


class Batches:
    """Batches of (images uint8, labels): the same for a seed and an epoch, however many processes share them.

    Args:
        data: the images; batches lie on their device.
        batch_size: of all processes together.
        seed, epoch: they alone decide the order and the augmentation.
        augmentation: None shows every image as it is.
        shuffle: draw a new order, and leave an incomplete last batch out.
        rank, world: this process takes every world-th image of each batch, beginning with its rank.

    Raises:
        InputError: shuffled batches that are larger than the whole set.
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
        if shuffle and batch_size > len(data):
            raise InputError(
                f"batch_size: {batch_size} is more than the {len(data)} training images; give {len(data)} or fewer"
            )
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


def cifar10(root: str | Path, split: str) -> ImageTensors:
    """CIFAR-10 from its official pickles (Krizhevsky 2009), by torchvision's reader, which checks their md5.

    Args:
        root: the folder that holds `cifar-10-batches-py`.
        split: `train` or `val` (the official test set).

    Raises:
        InputError: the files are missing or damaged.
    """
    try:
        data = torchvision.datasets.CIFAR10(str(root), train=split == "train")
    except RuntimeError:
        here = Path(root) / "cifar-10-batches-py"
        raise InputError(f"{here}: missing or damaged; unpack CIFAR-10's python version there") from None
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageTensors(images, torch.tensor(data.targets), list(data.classes))


def image_folder(root: str | Path, split: str, size: int) -> ImageTensors:
    """All images of ROOT/SPLIT/CLASS/*, decoded into memory: the shorter side resized to `size`, then cropped in the middle.

    Raises:
        InputError: a folder or its images are missing, there is one class only, or an image cannot be read.
    """
    folder = _listing(root, split)
    images = torch.empty(len(folder.samples), 3, size, size, dtype=torch.uint8)
    for number, (path, _) in enumerate(folder.samples):
        images[number] = torch.from_numpy(np.array(read_image(path, size))).permute(2, 0, 1)
    return ImageTensors(images, torch.tensor([label for _, label in folder.samples]), folder.classes)


def read_image(path: str | Path, size: int | None = None, middle: bool = False) -> Image.Image:
    """An image file as RGB, upright; with a size, its shorter side resized to it and cropped square in the middle.

    Args:
        path: the file.
        size: side in pixels; None leaves the image whole.
        middle: of that square the middle 7/8 only, as networks for 224 pixels are usually evaluated; an
            image that has the size already was cut by someone, and stays whole.

    Raises:
        InputError: it is no image, or damaged.
    """
    image = decode.open_image(Path(path))
    if size is None or image.size == (size, size):
        return image
    shorter = round(size * 8 / 7) if middle else size
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass
class FolderImages(Dataset[tuple[Tensor, int]]):
    """Images of a folder tree that does not fit into memory, decoded when asked for (Places365 at 224 pixels).

    Args:
        root, split: ROOT/SPLIT/CLASS/*.
        size: side in pixels of what is returned.
        seed, epoch: they and the index alone decide an image's augmentation.
        augment: a random resized crop and a flip (the Places365 recipe's); else `read_image`'s middle.

    Raises:
        InputError: as `image_folder`.
    """

    root: str | Path
    split: str
    size: int
    seed: int = 0
    epoch: int = 0
    augment: bool = False
    samples: list[tuple[str, int]] = field(init=False)
    classes: list[str] = field(init=False)

    def __post_init__(self) -> None:
        folder = _listing(self.root, self.split)
        self.samples, self.classes = folder.samples, folder.classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        if self.augment:
            generator = np.random.default_rng([self.seed, self.epoch, index])
            image = _random_resized_crop(read_image(path), self.size, generator)
        else:
            image = read_image(path, self.size, middle=True)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), label

    def batches(self, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0) -> DataLoader[Any]:
        """A loader of this process's share of every batch; the order depends on seed and epoch alone."""
        order = torch.arange(len(self))
        if self.augment:
            generator = torch.Generator().manual_seed(seed_of((self.seed << 20) + self.epoch))
            order = torch.randperm(len(self), generator=generator)
        batches = [batch[rank::world].tolist() for batch in order.split(batch_size)]
        if self.augment and len(self) % batch_size:
            batches = batches[:-1]
        pinned = torch.cuda.is_available()
        return DataLoader(self, batch_sampler=batches, num_workers=workers, collate_fn=self._collate, pin_memory=pinned)

    def _collate(self, samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """A process's share of a last batch may be empty."""
        if not samples:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def _random_resized_crop(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """8 % to 100 % of the area, at a ratio of 3/4 to 4/3, resized to a square and flipped at random."""
    for _ in range(10):
        area = image.width * image.height * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            break
    else:
        width = height = min(image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    crop = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


class _ClassFolders(torchvision.datasets.ImageFolder):
    """GIFs too, and nothing hidden, such as a notebook's checkpoints."""

    def __init__(self, root: str) -> None:
        super().__init__(root, is_valid_file=is_image)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        names = [name for name in super().find_classes(directory)[0] if not name.startswith(".")]
        if not names:
            raise FileNotFoundError(f"no class folder in {directory}")
        return names, {name: number for number, name in enumerate(names)}


def _listing(root: str | Path, split: str) -> Any:
    place = Path(root) / split
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; give the folder that holds train/CLASS/* and val/CLASS/*")
    try:
        folder = _ClassFolders(str(place))
    except FileNotFoundError as error:
        raise InputError(f"{place}: no images in class folders ({str(error).splitlines()[0]})") from None
    if len(folder.classes) < 2:
        raise InputError(f"{place}: one class only ({folder.classes[0]}); give a folder for each of two classes or more")
    return folder
