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


@dataclass
class DataRecipe:
    """Where images come from and what happens to them. Each key has a sentence."""

    kind: str = key(
        "cifar10", "scenes are generated, folder is ROOT/train/CLASS/* and ROOT/val/CLASS/*, or ROOT/CLASS/*", sources.names
    )
    root: str = key("data", "the folder; scenes need none")
    size: int = key(64, "side in pixels; cifar10 has its own")
    train_images: int = key(10_000, "scenes to generate for training")
    val_images: int = key(2_000, "scenes to generate for validation")
    pad: int = key(4, "images in memory are padded by so many pixels and cropped at random while training")
    flip: bool = key(True, "images in memory are mirrored at random while training")
    in_memory: bool = key(True, "false reads a folder's images when they are asked for, and crops and resizes at random")
    workers: int = key(0, "processes that read images; 0 reads in the main one")

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
            if getattr(self, name) < 1:
                raise InputError(f"data.{name}: {getattr(self, name)} must be an integer from 1 up")
        for name in ("pad", "workers"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"data.{name}: {value} must be a number from 0 up")
        source.check(self)


def open_images(recipe: DataRecipe, split: str, size: int | None = None) -> "LabelledImages":
    """A recipe's images of one split.

    Args:
        recipe: which images.
        split: `train` or `val`.
        size: side in pixels; also of images that have a size of their own. None takes the recipe's.

    Raises:
        InputError: they are missing, damaged or of one class only, or there is no such kind or split.
    """
    source = recipe.source
    if split not in source.splits:
        raise InputError(f"split: {split!r} is unknown of {source.title}; give {' or '.join(source.splits)}")
    images = source.open(recipe if size is None else replace(recipe, size=size), split)
    return images if size is None or images.side == size else images.resized(size)


def folder_recipe(root: str | Path, size: int | None = None, like: DataRecipe | None = None) -> DataRecipe:
    """A user's own folder of images, shown to a network as its own images were.

    Args:
        root: the folder, with train/CLASS/* and val/CLASS/*, or CLASS/*.
        size: side in pixels; None takes that of the network's own images, else 224.
        like: the images that the network learnt from; None means as most networks do, on the middle 7/8 of each image.
    """
    usual = like is None or like.center_crop
    side = size or (USUAL_SIZE if like is None else like.side)
    return DataRecipe("folder", str(root), side, in_memory=not usual)
