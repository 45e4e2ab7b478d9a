"""A folder of images by class, ROOT/SPLIT/CLASS/* or ROOT/CLASS/*: decoded into memory, or when asked for (Places365)."""

from dataclasses import replace
from functools import partial

from dynamick.data.class_folders import FolderImages, decoded, how_split
from dynamick.data.in_memory import Augmentation, ImageTensors
from dynamick.data.recipe import LEAST_CROP, DataRecipe
from dynamick.data.sources import Source


def opened(kind: type[FolderImages], recipe: DataRecipe, split: str) -> ImageTensors | FolderImages:
    """Images in files as a recipe wants them: decoded into memory, or when they are asked for."""
    if recipe.in_memory:
        return replace(decoded(kind(recipe.root, split, recipe.side)), augmentation=Augmentation(recipe.pad, recipe.flip))
    crop = LEAST_CROP if recipe.crop is None else recipe.crop
    return kind(recipe.root, split, recipe.side, crop=crop, flip=recipe.flip)


def center_crop(recipe: DataRecipe) -> bool:
    """Files that are decoded when they are asked for are evaluated on their middle 7/8."""
    return not recipe.in_memory


def _how_split(recipe: DataRecipe) -> str | None:
    return how_split(recipe.root)


SOURCE = Source(
    "a folder of images", partial(opened, FolderImages), center_crop=center_crop, how_split=_how_split, named_by_root=True
)
