"""Which labelled images are meant, and what happens to them: plain values, as in a recipe's `data`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynamick.data import sources
from dynamick.errors import InputError
from dynamick.settings import key

if TYPE_CHECKING:
    from dynamick.data.labelled import LabelledImages

USUAL_SIZE = 224
"""The default, in pixels, for a folder's images."""
LEAST_CROP = 0.08
"""The usual least share of an image that a random crop shows."""


@dataclass
class DataRecipe:
    """Where images come from and what happens to them. Each key has a sentence.

    >>> dk.data.DataRecipe(kind="folder", root="photos", size=224).in_memory
    True
    """

    kind: str = key(
        "cifar10",
        "scenes are generated; folder is ROOT/train/CLASS/* and ROOT/val/CLASS/*, or ROOT/CLASS/*; csv is ROOT/train.csv and "
        "ROOT/val.csv, with several labels an image",
        sources.names,
    )
    root: str = key("data", "the folder; scenes need none")
    size: int | None = key(None, "side in pixels; null takes the network's own, or 64; cifar10 has its own")
    train_images: int = key(10_000, "scenes to generate for training")
    val_images: int = key(2_000, "scenes to generate for validation")
    pad: int = key(4, "images in memory are padded by so many pixels and cropped at random while training")
    flip: bool = key(True, "images are mirrored at random while training")
    in_memory: bool = key(True, "false reads a folder's images when they are asked for; training then shows random crops")
    workers: int = key(0, "processes that read images; 0 reads in the main one")
    crop: float | None = key(
        None,
        "training shows a random part of each image, from so large a share of its area up, resized; null: 0.08 where images "
        "are read when they are asked for, no such crop in memory",
    )
    trivial: bool = key(False, "TrivialAugment while training: each image gets one change of colour or form, drawn at random")
    erase: float = key(0.0, "the probability that a random part of a training image is blank")
    mixup: float = key(0.0, "training images are mixed in pairs, by shares of a beta distribution of this parameter; 0 is off")
    mean: tuple[float, ...] | None = key(None, "of R, G and B in 0..1, which is subtracted; null takes the network's own")
    std: tuple[float, ...] | None = key(None, "what the difference is divided by; null takes the network's own")

    @property
    def source(self) -> sources.Source:
        """The source that the kind names.

        Raises:
            InputError: there is no such kind.
        """
        return sources.find(self.kind)

    @property
    def side(self) -> int:
        """The images' side in pixels."""
        return self.source.side(self)

    @property
    def center_crop(self) -> bool:
        """Whether the images are evaluated on their middle 7/8 only; else on the whole of their shorter side."""
        return self.source.center_crop(self)

    @property
    def name(self) -> str:
        """A short name, for example for a folder: the kind's, or the root's if it tells sets apart."""
        return Path(self.root).name if self.source.named_by_root else self.kind

    @property
    def title(self) -> str:
        """The name for pages: `CIFAR-10`, or the root's if it tells sets apart."""
        return Path(self.root).name if self.source.named_by_root else self.source.title

    @property
    def where(self) -> str:
        """For messages: the folder that the images are read from, else what they are."""
        return self.root if self.source.needs_root else self.source.title

    @property
    def how_split(self) -> str | None:
        """A sentence on which images are for validation; None where somebody has parted them."""
        return self.source.how_split(self)

    def check(self) -> None:
        """Check that every value is allowed.

        Raises:
            InputError: the first one that is not, named as in YAML.
        """
        source = self.source
        for name in ("size", "train_images", "val_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"data.{name}: {value} must be an integer from 1 up")
        for name in ("pad", "workers"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"data.{name}: {value} must be a number from 0 up")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise InputError(f"data.crop: {self.crop} must be a number above 0 and at most 1, or null")
        if not 0 <= self.erase <= 1:
            raise InputError(f"data.erase: {self.erase} must be a number in 0..1")
        if not 0 <= self.mixup < float("inf"):
            raise InputError(f"data.mixup: {self.mixup} must be a number from 0 up; 0.2 is usual")
        source.check(self)


def open_images(recipe: DataRecipe, split: str, size: int | None = None) -> "LabelledImages":
    """A recipe's images of one split.

    Args:
        recipe: which images.
        split: `train` or `val`.
        size: side in pixels; also of images that have a size of their own. None takes the recipe's.

    Raises:
        InputError: they are missing, damaged or of one class only, or there is no such kind or split.

    >>> len(dk.data.open_images(dk.data.DataRecipe(kind="scenes", size=32, val_images=20), "val"))
    20
    """
    source = recipe.source
    if split not in source.splits:
        raise InputError(f"split: {split!r} is unknown of {source.title}; give {' or '.join(source.splits)}")
    images = source.open(replace(recipe, size=recipe.side if size is None else size), split)
    return images if size is None or images.side == size else images.resized(size)


def folder_recipe(root: str | Path, size: int | None = None, like: DataRecipe | None = None) -> DataRecipe:
    """A user's own folder of images, shown to a network as its own images were.

    Args:
        root: the folder, with train/CLASS/* and val/CLASS/*, or CLASS/*.
        size: side in pixels; None takes that of the network's own images, else 224.
        like: the images that the network learnt from; None means as most networks do, on the middle 7/8 of each image.

    >>> dk.data.folder_recipe("photos", size=64).size
    64
    """
    usual = like is None or like.center_crop
    side = size or (USUAL_SIZE if like is None else like.side)
    return DataRecipe("folder", str(root), side, in_memory=not usual)
