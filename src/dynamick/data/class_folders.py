"""Images in a folder for each class, decoded into memory or when they are asked for."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynamick.data.finding import IMAGES, folders_in, images_under, is_in
from dynamick.data.in_memory import ImageTensors, check_batch, describe
from dynamick.data.loading import Batched
from dynamick.data.photographs import random_resized_crop, read_image
from dynamick.errors import InputError
from dynamick.files import is_utf8
from dynamick.seeding import seed_of

HELD = 5
"""Of a class whose images nobody has parted, one in so many is for validation."""


def image_folder(root: str | Path, split: str, size: int, refused: list[str] | None = None) -> ImageTensors:
    """All images of ROOT/SPLIT/CLASS/*, decoded into memory: the shorter side resized to `size`, then cropped in the middle.

    Args:
        root, split: as of `FolderImages`.
        size: side in pixels.
        refused: a list that gets a line for each image that cannot be read, which is then left out; None leaves none out.

    Raises:
        InputError: a folder or its images are missing, there is one class only, or an image cannot be read.

    >>> import os
    >>> from PIL import Image
    >>> for number, image in enumerate(dk.data.ComposedScenes("val", 8, image_size=32).images):
    ...     _ = os.makedirs(f"photos/{'ab'[number % 2]}", exist_ok=True)
    ...     Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"photos/{'ab'[number % 2]}/{number}.png")
    >>> dk.data.image_folder("photos", "train", size=32).images.shape
    torch.Size([6, 3, 32, 32])
    """
    return decoded(FolderImages(root, split, size), refused)


def decoded(whole: "FolderImages", refused: list[str] | None = None) -> ImageTensors:
    """All of some images, decoded into memory as `image_folder` does; it raises the same."""
    size = whole.size
    images, places = torch.empty(len(whole), 3, size, size, dtype=torch.uint8), list[int]()
    for place, (path, _) in enumerate(whole.samples):
        try:
            images[len(places)] = torch.from_numpy(np.array(read_image(path, size))).permute(2, 0, 1)
            places.append(place)
        except InputError as error:
            if refused is None:
                raise
            refused.append(str(error))
    names = [whole.names[place] for place in places]
    return ImageTensors(images[: len(places)], whole.labels[places], whole.classes, names)


def how_split(root: str | Path) -> str | None:
    """A sentence on which of a folder's images are for validation; None if they have a folder of their own."""
    if (Path(root) / "val").is_dir() or not Path(root).is_dir():
        return None
    return f"{root}: no val/: every {HELD}th image of a class is kept for validation, and not learnt from"


@dataclass
class FolderImages(Dataset[tuple[Tensor, Any]]):
    """Images of a folder tree that does not fit into memory, decoded when asked for (Places365 at 224 pixels).

    As `dynamick.data.LabelledImages`.

    Args:
        root, split: ROOT/SPLIT/CLASS/*. Without ROOT/val every 5th image of each class (of two to four images the last one) is
            for validation and the others are for training. They come from ROOT/train/CLASS/*, or from ROOT/CLASS/*.
        size: side in pixels of what is returned.
        seed, epoch: an image's augmentation depends only on these and on its index.
        augment: a random resized crop and a flip (the Places365 recipe's); else `read_image`'s centre crop.
        crop: the least share of an image's area that a random crop shows.
        flip: whether every second augmented image is mirrored.

    Raises:
        InputError: as `image_folder`.

    >>> import os
    >>> from PIL import Image
    >>> for number, image in enumerate(dk.data.ComposedScenes("val", 8, image_size=32).images):
    ...     _ = os.makedirs(f"photos/{'ab'[number % 2]}", exist_ok=True)
    ...     Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"photos/{'ab'[number % 2]}/{number}.png")
    >>> data = dk.data.FolderImages("photos", "val", size=32)
    >>> len(data), data.classes
    (2, ['a', 'b'])
    """

    root: str | Path
    split: str
    size: int
    seed: int = 0
    epoch: int = 0
    augment: bool = False
    crop: float = 0.08
    flip: bool = True
    samples: Sequence[tuple[str, Any]] = field(init=False)
    classes: list[str] = field(init=False)
    place: Path = field(init=False)
    in_memory = False

    def __post_init__(self) -> None:
        self.place, parted = _place(Path(self.root), self.split)
        self.samples, self.classes = _listing(self.place, None if parted else self.split)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        path, label = self.samples[index]
        if self.augment:
            generator = np.random.default_rng([self.seed, self.epoch, index])
            image = random_resized_crop(read_image(path), self.size, generator, self.crop, self.flip)
        else:
            image = read_image(path, self.size, center_crop=True)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(), label

    @property
    def side(self) -> int:
        """In pixels."""
        return self.size

    @cached_property
    def labels(self) -> Tensor:
        """int64, shape (N,); of several labels an image (N, classes)."""
        return torch.tensor([label for _, label in self.samples])

    @cached_property
    def names(self) -> list[str]:
        """The images' files below the folder of the classes."""
        place = f"{self.place}/"
        return [path.removeprefix(place) for path, _ in self.samples]

    def take(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Some images and their labels: uint8 (n, 3, H, W), int64 (n,)."""
        return self._collate([self[place] for place in places])

    def training_batches(
        self, batch_size: int, seed: int = 0, epoch: int = 0, rank: int = 0, world: int = 1, workers: int = 0
    ) -> Batched:
        """Augmented images in a new order, whole batches only; seed and epoch alone decide both."""
        check_batch(batch_size, len(self))
        augmented = copy.copy(self)
        augmented.seed, augmented.epoch, augmented.augment = seed, epoch, True
        return augmented.batches(batch_size, rank, world, workers)

    def moments(self) -> None:
        """Not known: every image would have to be decoded."""

    def to(self, device: torch.device) -> "FolderImages":
        """These images themselves, since they are in files."""
        return self

    def resized(self, side: int) -> "FolderImages":
        """The same images with another side in pixels."""
        other = copy.copy(self)
        other.size = side
        return other

    def fingerprint(self) -> str:
        """A checksum of the files' names, sizes and times of change.

        Raises:
            InputError: a file is gone.
        """
        sha = describe(self.classes, self.labels)
        sha.update(f"{self.size} {self.augment}".encode())
        for path, _ in self.samples:
            try:
                about = Path(path).stat()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror}); mend it or take it away") from None
            said = f"{Path(path).relative_to(self.root)} {about.st_size} {about.st_mtime_ns}"
            sha.update(said.encode(errors="surrogateescape"))
        return sha.hexdigest()

    def batches(self, batch_size: int, rank: int = 0, world: int = 1, workers: int = 0) -> Batched:
        """A loader of this process's share of every batch; the order depends on seed and epoch alone."""
        order = torch.arange(len(self))
        if self.augment:
            generator = torch.Generator().manual_seed(seed_of((self.seed << 20) + self.epoch))
            order = torch.randperm(len(self), generator=generator)
        batches = [batch[rank::world].tolist() for batch in order.split(batch_size)]
        if self.augment and len(self) % batch_size:
            batches = batches[:-1]
        return Batched(self.__getitem__, batches, self._collate, workers, pinned=torch.cuda.is_available())

    def _collate(self, samples: list[tuple[Tensor, Any]]) -> tuple[Tensor, Tensor]:
        """A process's share of a last batch may be empty."""
        if not samples:
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def _place(root: Path, split: str) -> tuple[Path, bool]:
    """The folder of a split's classes, and whether all that is in it is of this split."""
    if (root / split).is_dir() and (split != "train" or (root / "val").is_dir()):
        return root / split, True
    if split in ("train", "val") and not (root / "val").is_dir():
        if (root / "train").is_dir():
            return root / "train", False
        if root.is_dir() and folders_in(root):
            return root, False
    raise InputError(f"{root / split}: no such folder; give the folder that holds train/CLASS/* and val/CLASS/*, or CLASS/*")


def _listing(place: Path, part: str | None) -> tuple[list[tuple[str, int]], list[str]]:
    """The images in class folders, as (file, label) in the order of classes and names, and the classes; all, or a part."""
    classes = folders_in(place)
    if not classes:
        raise InputError(f"{place}: no images in class folders (it holds no folder); give a folder of images for each class")
    homes = [os.path.realpath(place / name) for name in classes]
    _check_classes(place, classes, homes)
    found: list[list[str]] = []
    for name in classes:
        found.append(sorted(images_under(place / name, set(homes)), key=os.path.split))
        if not found[-1]:
            raise InputError(f"{place}: no images in class folders ({name} has none that ends in {', '.join(IMAGES)})")
    if len(classes) < 2:
        raise InputError(f"{place}: one class only ({classes[0]}); give a folder for each of two classes or more")
    if part is not None:
        found = [_part_of(files, part, place / name) for name, files in zip(classes, found, strict=True)]
    return [(file, label) for label, files in enumerate(found) for file in files], classes


def held_out(count: int) -> list[int]:
    """Which of so many images in a row are held out: the 5th, 10th and so on; of two to four the last, of one none."""
    return list(range(HELD - 1, count, HELD)) if count >= HELD else [count - 1] * (count > 1)


def _part_of(files: list[str], part: str, place: Path) -> list[str]:
    held = set(held_out(len(files)))
    if not held:
        raise InputError(f"{place}: one image only; without val/ each class needs two or more, one of them for validation")
    return [file for number, file in enumerate(files) if (number in held) == (part == "val")]


def _check_classes(place: Path, classes: list[str], homes: list[str]) -> None:
    """Each class has a folder of its own, and a name that can be written down."""
    for name, home in zip(classes, homes, strict=True):
        if not is_utf8(name):
            raise InputError(f"{place}: {name!a} is no name in UTF-8; rename it")
        if not (place / name).is_symlink():
            continue
        others = (other for other, its in zip(classes, homes, strict=True) if other != name and is_in(home, its))
        if (other := next(others, None)) is not None:
            raise InputError(f"{place / name}: leads into the folder of the class {other}; give each class its own images")
        if is_in(os.path.realpath(place), home):
            raise InputError(f"{place / name}: leads to a folder that holds all classes; take the link away")
