"""The data module: a recipe's images as batches for Lightning."""

from typing import Any

import lightning as L

from dynamick import data
from dynamick.data.images import Augmentation, Batches, FolderImages, ImageTensors, check_same_classes
from dynamick.errors import InputError
from dynamick.training.recipe import DataRecipe, Recipe

VAL_BATCH = 500

# Scenes depend on the index; the validation set's are another stream (data.scenes).
SCENES_SEED = 0


def load_images(recipe: DataRecipe, split: str) -> ImageTensors | FolderImages:
    """A recipe's images of one split: `train` or `val`.

    Raises:
        InputError: they are missing, damaged or of one class only.
    """
    if recipe.kind == "scenes":
        count = recipe.train_images if split == "train" else recipe.val_images
        scenes = data.ComposedScenes(split, count, SCENES_SEED, recipe.size)
        return ImageTensors(scenes.images, scenes.labels, scenes.classes)
    if recipe.kind == "cifar10":
        return data.cifar10(recipe.root, split)
    if recipe.in_memory:
        return data.image_folder(recipe.root, split, recipe.size)
    return FolderImages(recipe.root, split, recipe.size)


class Images(L.LightningDataModule):
    """Train and validation batches that depend on the recipe's seed and the epoch alone.

    The trainer must ask for its loaders anew every epoch (`reload_dataloaders_every_n_epochs=1`): each is made for one epoch.

    Args:
        recipe: what to load and how to batch it.

    Attributes:
        train, val: the images; on the training's device where they are in memory.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.train, self.val = load_images(recipe.data, "train"), load_images(recipe.data, "val")
        check_same_classes(recipe.data.root, self.train.classes, self.val.classes)
        if recipe.optim.batch_size > len(self.train):
            most = f"the {len(self.train)} training images; give {len(self.train)} or fewer"
            raise InputError(f"optim.batch_size: {recipe.optim.batch_size} is more than {most}")

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        if isinstance(self.train, ImageTensors) and isinstance(self.val, ImageTensors):
            self.train, self.val = self.train.to(device), self.val.to(device)

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        recipe, epoch = self.recipe, self.trainer.current_epoch
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if isinstance(self.train, FolderImages):
            images = FolderImages(recipe.data.root, "train", recipe.data.size, recipe.seed, epoch, augment=True)
            return images.batches(recipe.optim.batch_size, rank, world, recipe.data.workers)
        augmentation = Augmentation(recipe.data.pad, recipe.data.flip) if recipe.data.pad or recipe.data.flip else None
        return Batches(self.train, recipe.optim.batch_size, recipe.seed, epoch, augmentation, True, rank, world)

    def val_dataloader(self) -> Any:
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if isinstance(self.val, FolderImages):
            return self.val.batches(self.recipe.optim.batch_size, rank, world, self.recipe.data.workers)
        return Batches(self.val, VAL_BATCH, rank=rank, world=world)
