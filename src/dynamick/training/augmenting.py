"""What training images go through on their way to a network, drawn anew each time (torchvision.transforms.v2)."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from dynamick.data.recipe import DataRecipe
from dynamick.seeding import seed_of


class Augmenting:
    """Crops, TrivialAugment, random erasing and mixup of a batch. Its draws depend on the seed, the epoch and the batch alone.

    Flips and shifts of images in memory, and crops and flips of files, were made before, when the images were read.

    Args:
        data: which of these.
        classes: how many.
        cropped: the images were cropped at random when they were read.
        blank: the colour of what is erased, 0..1 for each channel.
        seed: of the draws.
    """

    def __init__(self, data: DataRecipe, classes: int, cropped: bool, blank: tuple[float, ...], seed: int) -> None:
        crops = data.crop is not None and not cropped
        one_by_one: list[Any] = [v2.RandomResizedCrop(data.side, (data.crop, 1.0), antialias=True)] if crops else []
        one_by_one += [v2.TrivialAugmentWide()] if data.trivial else []
        one_by_one += [v2.ToDtype(torch.float32, scale=True)] if data.erase or data.mixup else []
        one_by_one += [v2.RandomErasing(data.erase, value=list(blank))] if data.erase else []
        self.one_by_one = v2.Compose(one_by_one) if one_by_one else None
        self.mixup = v2.MixUp(alpha=data.mixup, num_classes=classes) if data.mixup else None
        self.seed = seed

    def __call__(self, images: Tensor, targets: Tensor, place: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, 3, H, W) and their targets; mixed, they are 0..1 and the targets (B, classes).

        Args:
            images, targets: a batch.
            place: epoch, batch and process.
        """
        if self.one_by_one is None:
            return images, targets
        with torch.random.fork_rng(devices=[]):
            # The generator takes 32 bits: a checksum of the place spreads over all of them.
            torch.manual_seed(seed_of(hash((self.seed, *place))))
            images = torch.stack([self.one_by_one(image) for image in images])
            return (images, targets) if self.mixup is None else self.mixup(images, targets)
