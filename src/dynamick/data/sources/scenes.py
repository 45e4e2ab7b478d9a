"""Generated scenes of parts (`dynamick.data.ComposedScenes`): they need no files."""

from dynamick.data.in_memory import Augmentation, ImageTensors
from dynamick.data.recipe import DataRecipe
from dynamick.data.scenes import SMALLEST_SIDE, ComposedScenes
from dynamick.data.sources import Source
from dynamick.errors import InputError

SEED = 0
"""A scene depends only on this and on its place. Those of `val` are another stream."""


def _open(recipe: DataRecipe, split: str) -> ImageTensors:
    count = recipe.train_images if split == "train" else recipe.val_images
    scenes = ComposedScenes(split, count, SEED, recipe.side)
    names = [f"scene {place}" for place in range(count)]
    return ImageTensors(scenes.images, scenes.labels, scenes.classes, names, Augmentation(recipe.pad, recipe.flip))


def _check(recipe: DataRecipe) -> None:
    if recipe.side < SMALLEST_SIDE:
        raise InputError(f"data.size: {recipe.side} must be an integer from {SMALLEST_SIDE} up for scenes")


SOURCE = Source("generated scenes", _open, check=_check, needs_root=False, photographs=False)
