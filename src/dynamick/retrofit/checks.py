"""What a retrofit is held to before anything is computed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick.data.images import check_same_classes, image_folder
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.errors import InputError
from dynamick.files import read_json
from dynamick.functional import check_k, check_rule
from dynamick.nn.units import MOST

WEIGHTS, FIGURES = "weights.safetensors", "retrofit.json"
NAMED = 5
"""So many images that cannot be read are named."""
FEWEST = 2
"""Images of a class: one to learn from, and one to choose by."""


def check_options(k: int, units: int | None, rule: str, teacher: str, teachers: Sequence[str]) -> None:
    """Hold the options to what they can be.

    Raises:
        InputError: the first that is wrong.
    """
    try:
        check_k(k)
        check_rule(rule)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    if units is not None and not 1 <= units <= MOST:
        raise InputError(f"--units {units}: give an integer from 1 to {MOST}, such as 256, or none")
    if units is not None and k > units:
        raise InputError(f"--k {k}: is more than the {units} units; give {units} or fewer")
    if teacher not in teachers:
        raise InputError(f"--teacher {teacher}: is unknown; give {', '.join(teachers)}")


def check_images(labels: Tensor, classes: Sequence[str]) -> None:
    """Raise InputError where a class has too few images, labels (N,), to learn from."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    few = [name for name, count in zip(classes, counts, strict=True) if count < FEWEST]
    if few:
        raise InputError(f"train/{few[0]}: too few images to learn from; give each class {FEWEST} or more, or take it away")


def open_splits(recipe: DataRecipe, tell: Callable[[str], None]) -> dict[str, LabelledImages]:
    """The user's images by split, `train` first. Files that cannot be read are left out of those that are in memory.

    Raises:
        InputError: they are missing, or the splits hold different classes.
    """
    if (said := recipe.how_split) is not None:
        tell(said)
    images: dict[str, LabelledImages] = {}
    for split in ("train", "val"):
        if recipe.in_memory:
            refused: list[str] = []
            images[split] = image_folder(recipe.root, split, recipe.side, refused)
            tell_left_out(refused, tell)
        else:
            images[split] = open_images(recipe, split)
    check_same_classes(recipe.root, images["train"].classes, images["val"].classes)
    return images


def tell_left_out(files: Sequence[str], tell: Callable[[str], None]) -> None:
    """Say how many images cannot be read, and name some of them."""
    if files:
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        tell(f"{len(files)} image{'s' * (len(files) > 1)} cannot be read, left out: {', '.join(files[:NAMED])}{more}")


def check_same(file: Path, wanted: dict[str, Any]) -> None:
    """A folder holds one head: what its retrofit.json says must be what is wanted; a file that is not there says nothing.

    Raises:
        InputError: it names the first setting that differs, or the file is damaged.
    """
    if not file.exists():
        return
    try:
        made = dict(read_json(file))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: damaged ({error}); take it away, or give another --out") from None
    for name, value in wanted.items():
        if made.get(name) != value:
            told = "other weights" if name == "weights" else f"--{name} {made.get(name, 'unknown')}, not {value}"
            raise InputError(f"{file}: its head was made with {told}; give another --out, or take this one away")
