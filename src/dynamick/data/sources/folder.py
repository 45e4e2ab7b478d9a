"""A folder of images by class, ROOT/SPLIT/CLASS/* or ROOT/CLASS/*: decoded into memory, or when asked for (Places365)."""

from dataclasses import replace

from dynamick.data.class_folders import FolderImages, how_split, image_folder
from dynamick.data.in_memory import Augmentation, ImageTensors
from dynamick.data.recipe import LEAST_CROP, DataRecipe
from dynamick.data.sources import Source


def _open(recipe: DataRecipe, split: str) -> ImageTensors | FolderImages:
    if not recipe.in_memory:
        crop = LEAST_CROP if recipe.crop is None else recipe.crop
        return FolderImages(recipe.root, split, recipe.side, crop=crop, flip=recipe.flip)
    return replace(image_folder(recipe.root, split, recipe.side), augmentation=Augmentation(recipe.pad, recipe.flip))


def _center_crop(recipe: DataRecipe) -> bool:
    return not recipe.in_memory


def _how_split(recipe: DataRecipe) -> str | None:
    return how_split(recipe.root)


SOURCE = Source("a folder of images", _open, center_crop=_center_crop, how_split=_how_split, named_by_root=True)
