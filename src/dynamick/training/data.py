"""The data module: a recipe's images as batches for Lightning."""

from typing import Any

import lightning as L

from dynamick.data.images import check_same_classes
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import open_images
from dynamick.errors import InputError
from dynamick.training.recipe import Recipe

VAL_BATCH = 500

load_images = open_images
"""The old name of what is in `dynamick.data` now."""


class Images(L.LightningDataModule):
    """Train and validation batches that depend on the recipe's seed and the epoch alone.

    The trainer must ask for its loaders anew every epoch (`reload_dataloaders_every_n_epochs=1`): each is made for one epoch.

    Args:
        recipe: what to load and how to batch it.

    Attributes:
        train, val: the images; on the training's device if they are in memory.

    >>> few = {"width": 8, "data.train_images": 64, "data.val_images": 20, "optim.epochs": 1}
    >>> recipe = dk.training.Recipe.read("scenes-small", few)
    >>> len(dk.training.Images(recipe).val)
    20
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.train: LabelledImages
        self.val: LabelledImages
        self.train, self.val = open_images(recipe.data, "train"), open_images(recipe.data, "val")
        check_same_classes(recipe.data.root, self.train.classes, self.val.classes)
        if recipe.optim.batch_size > len(self.train):
            most = f"the {len(self.train)} training images; give {len(self.train)} or fewer"
            raise InputError(f"optim.batch_size: {recipe.optim.batch_size} is more than {most}")

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        self.train, self.val = self.train.to(device), self.val.to(device)

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        recipe, rank, world = self.recipe, self.trainer.global_rank, self.trainer.world_size
        size, epoch = recipe.optim.batch_size, self.trainer.current_epoch
        return self.train.training_batches(size, recipe.seed, epoch, rank, world, recipe.data.workers)

    def val_dataloader(self) -> Any:
        assert self.trainer is not None
        # Images that are decoded for each batch are large, so many of them may not fit.
        size = VAL_BATCH if self.val.in_memory else self.recipe.optim.batch_size
        return self.val.batches(size, self.trainer.global_rank, self.trainer.world_size, self.recipe.data.workers)
