"""Some images of a folder of any kind, with classes or without: what a user wants explained."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dynamick.data.class_folders import FolderImages
from dynamick.data.decode import as_rgb
from dynamick.data.finding import IMAGES, images_under
from dynamick.data.in_memory import evenly_spaced
from dynamick.data.photographs import display_image, fitted, read_image
from dynamick.errors import InputError
from dynamick.progress import passing

DISPLAYED = 256
"""The longest side in pixels of what people are shown of an image."""


@dataclass(frozen=True)
class Pictures:
    """Images that were read.

    Attributes:
        images: uint8, shape (N, 3, S, S).
        root: the folder that was meant, or that of the one image.
        files: where each was read from.
        names: the same, below the folder.
        refused: a line for each file that was left out, which says why.
        displayed: for people: what the network sees of each file, uint8 (h, w, 3), with all pixels up to `DISPLAYED` a side.
    """

    images: Tensor
    root: Path
    files: list[Path]
    names: list[str]
    refused: list[str]
    displayed: list[NDArray[np.uint8]] = field(default_factory=list)


def read_pictures(
    root: str | Path, limit: int, size: int | None = None, center_crop: bool = False, progress: bool = False
) -> Pictures:
    """Up to `limit` images, spread evenly over a folder's files. Files that cannot be read are left out.

    Args:
        root: a folder, or one image; or DIR/val where DIR has images of classes but no val/ (`FolderImages`).
        limit: how many files are read at most.
        size: side in pixels; None takes the first image's shorter side for all.
        center_crop: as in `read_image`; without a size images are whole.
        progress: show how many are read, and how long the rest takes.

    Raises:
        InputError: there is no such folder, or no readable image in it.

    >>> from PIL import Image
    >>> Image.new("RGB", (80, 60)).save("photo.png")
    >>> dk.data.read_pictures(".", limit=1, size=32).images.shape
    torch.Size([1, 3, 32, 32])
    """
    root = Path(root)
    if limit < 1:
        raise InputError(f"--limit: {limit} must be an integer from 1 up")
    root, found = _found(root)
    center_crop = center_crop and size is not None
    images, files, refused, displayed = [], [], [], []
    chosen = [found[place] for place in evenly_spaced(len(found), limit)]
    for path in passing("reading images", chosen, show=progress):
        try:
            # If the model has no size of its own, all images get the first one's shorter side: they pass the network together.
            image = read_image(path)
            size = size or min(image.size)
            images.append(torch.from_numpy(np.array(fitted(image, size, center_crop))).permute(2, 0, 1))
            displayed.append(np.array(display_image(image, size, center_crop, DISPLAYED)))
            files.append(path)
        except InputError as error:
            refused.append(str(error))
    if not files:
        why = f"; the first: {refused[0]}" if refused else ""
        raise InputError(f"{root}: no readable image ({', '.join(IMAGES)}); give a folder with some{why}")
    names = [path.relative_to(root).as_posix() for path in files]
    return Pictures(torch.stack(images), root, files, names, refused, displayed)


def _found(root: Path) -> tuple[Path, list[Path]]:
    """The folder of the images, and their files."""
    if root.is_file():
        return root.parent, [root]
    if not root.exists() and root.name in ("train", "val") and root.parent.is_dir():
        parted = FolderImages(root.parent, root.name, 1)
        return parted.place, [Path(path) for path, _ in parted.samples]
    if not root.exists():
        raise InputError(f"{root}: no such folder; give one with images in it")
    return root, sorted(map(Path, images_under(root)))


def as_images(given: Any, size: int | None = None, center_crop: bool = False) -> Tensor:
    """Images in any usual form as one batch of shape (N, 3, H, W).

    Args:
        given: a tensor (N, 3, H, W), or (3, H, W) of one image, which stays as it is; or the path of an image or of a folder,
            an image of Pillow's, or several of these.
        size: side in pixels of images that are no tensors; None takes the first one's shorter side for all.
        center_crop: as in `read_image`.

    Raises:
        InputError: a file cannot be read, a folder holds no image, or something else is given.
    """
    if isinstance(given, Tensor):
        return given[None] if given.ndim == 3 else given
    if isinstance(given, str | Path) and Path(given).is_dir():
        folder, given = given, sorted(images_under(given))
        if not given:
            raise InputError(f"{folder}: no image in this folder ({', '.join(IMAGES)})")
    several = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if several and all(isinstance(each, Tensor) for each in several):
        shapes = {tuple(each.shape) for each in several}
        if len(shapes) > 1:
            raise InputError(f"images: tensors of shapes {sorted(shapes)}; give them in one shape, (3, H, W)")
        return torch.stack(several)
    center_crop, batch = center_crop and size is not None, list[Tensor]()
    for place, each in enumerate(several):
        image = _rgb(each, place)
        size = size or min(image.size)
        batch.append(torch.from_numpy(np.array(fitted(image, size, center_crop))).permute(2, 0, 1))
    return torch.stack(batch) if batch else torch.zeros(0, 3, size or 1, size or 1, dtype=torch.uint8)


def _rgb(given: Any, place: int) -> Image.Image:
    if isinstance(given, Image.Image):
        return as_rgb(given, f"image {place + 1}")
    if isinstance(given, str | Path):
        return read_image(given)
    raise InputError(f"images: {type(given).__name__}; give a tensor (B, 3, H, W), paths, or images of Pillow's, one or many")


def class_of(file: Path, root: Path, classes: Sequence[str]) -> int | None:
    """The class of an image by its folders' names: the outermost folder below the root that has the name of a class.

    If there is none, the root's own name may be a class. None if no name is a class, or if several classes share it.
    """
    folders = [*file.relative_to(root).parts[:-1], root.absolute().name] if root in file.parents else [file.parent.name]
    name = next((each for each in folders if each in classes), "")
    return list(classes).index(name) if list(classes).count(name) == 1 else None
