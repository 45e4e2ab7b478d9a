"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes (Krizhevsky 2009)."""

from dataclasses import replace
from pathlib import Path

import torch
import torchvision

from dynamick.data.in_memory import Augmentation, ImageTensors
from dynamick.data.recipe import DataRecipe
from dynamick.data.sources import Source
from dynamick.errors import InputError

SIDE = 32


def cifar10(root: str | Path, split: str) -> ImageTensors:
    """CIFAR-10 from its official pickles (Krizhevsky 2009), by torchvision's reader, which checks their md5.

    Args:
        root: the folder that holds `cifar-10-batches-py`.
        split: `train` or `val` (the official test set).

    Raises:
        InputError: the files are missing or damaged.

    >>> dk.data.cifar10("nowhere", "val")
    Traceback (most recent call last):
    dynamick.errors.InputError: ...
    """
    try:
        data = torchvision.datasets.CIFAR10(str(root), train=split == "train")
    except RuntimeError:
        here = Path(root) / "cifar-10-batches-py"
        raise InputError(f"{here}: missing or damaged; unpack CIFAR-10's python version there") from None
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageTensors(images, torch.tensor(data.targets), list(data.classes))


def _open(recipe: DataRecipe, split: str) -> ImageTensors:
    return replace(cifar10(recipe.root, split), augmentation=Augmentation(recipe.pad, recipe.flip))


def _side(recipe: DataRecipe) -> int:
    return SIDE


SOURCE = Source("CIFAR-10", _open, side=_side)
