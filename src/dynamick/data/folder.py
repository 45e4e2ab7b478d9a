"""People's own concepts as a plain folder: images beside one mask per concept."""

from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from dynamick.data.concepts import Label, Sample
from dynamick.data.decode import read_image, read_mask, read_size, text
from dynamick.data.finding import IMAGES, folders_in, images_under
from dynamick.errors import InputError
from dynamick.files import fingerprint, is_utf8

CATEGORY = "concept"
MAP_SIZE = (112, 112)
"""The size of Broden's label maps for images of 224 x 224."""


class ConceptFolder(Dataset[Sample]):
    """A folder of images and masks, as a `ConceptDataset`:

        images/NAME.jpg (or another of `dynamick.data.finding.IMAGES`)
        masks/CONCEPT/NAME.png

    A mask is of its image's size and not black where the concept is; masks of several concepts may overlap. An image
    without a mask of a concept lacks it. NAME may contain `/`. All concepts, in alphabetical order, are of one category.

    Args:
        root: the folder.
        map_size: height and width in pixels to which masks are resized (nearest pixel).

    Raises:
        InputError: there are no images or no masks, a mask has no image, or two images have one NAME. Indexing raises it
            for an unreadable file and for a mask of another size than its image.

    >>> import os
    >>> from PIL import Image
    >>> os.makedirs("mine/images"), os.makedirs("mine/masks/sky")
    (None, None)
    >>> Image.new("RGB", (32, 32)).save("mine/images/1.png")
    >>> Image.new("L", (32, 32), 255).save("mine/masks/sky/1.png")
    >>> [label.name for label in dk.data.ConceptFolder("mine").labels]
    ['sky']
    """

    def __init__(self, root: str | Path, map_size: tuple[int, int] = MAP_SIZE) -> None:
        self.root = Path(root)
        if min(map_size) < 1:
            raise InputError(f"map_size: {map_size} must be a height and a width from 1 up")
        self.map_size = map_size
        self._names, concepts, self._masks, problems = scan(self.root)
        if problems:
            raise InputError(f"{problems[0]} (the first of {len(problems)} problems)")
        self.categories = [CATEGORY]
        self.labels = [Label(number, concept, CATEGORY) for number, concept in enumerate(concepts, 1)]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        image = self._image(index)
        return Sample(self.name(index), _chw(image), self._maps(index, image.shape[:2]))

    def name(self, index: int) -> str:
        """The file of one image, below images/."""
        return self._names[index]

    def fingerprint(self) -> str:
        """A checksum of the images' and masks' names, sizes and times of change."""
        masks = (path for of in self._masks.values() for _, path in of)
        return fingerprint(self.labels, (*(self.root / "images" / name for name in self._names), *masks))

    def image(self, index: int) -> Tensor:
        """One image alone, as `Sample.image`: no mask is decoded."""
        return _chw(self._image(index))

    def maps(self, index: int) -> dict[str, Tensor]:
        """One image's label maps alone, as `Sample.maps`: of the image only the size is read."""
        name = self._names[index]
        return self._maps(index, read_size(self.root / "images" / name)) if name in self._masks else {}

    def _image(self, index: int) -> NDArray[np.uint8]:
        return read_image(self.root / "images" / self._names[index])

    def _maps(self, index: int, size: tuple[int, ...]) -> dict[str, Tensor]:
        name = self._names[index]
        maps = []
        for number, path in self._masks.get(name, []):
            mask = read_mask(path)
            if mask.shape != size:
                raise InputError(
                    f"{path}: its size is {text(mask.shape)}; its image's is {text(size)}, and both must be the same"
                )
            resized = Image.fromarray(mask).resize(self.map_size[::-1], Image.Resampling.NEAREST)
            maps.append(number * np.asarray(resized).astype(np.int32))
        kept = [each for each in maps if each.any()]
        return {CATEGORY: torch.from_numpy(np.stack(kept))} if kept else {}


def _chw(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def scan(root: Path) -> tuple[list[str], list[str], dict[str, list[tuple[int, Path]]], list[str]]:
    """What a folder holds: images, concepts, the masks of each image as (number of the concept, file), and what is wrong."""
    images, masks = root / "images", root / "masks"
    problems = [
        f"{each}: no such folder; it must hold images/ and masks/CONCEPT/" for each in (images, masks) if not each.is_dir()
    ]
    if problems:
        return [], [], {}, problems
    names = _images_under(images)
    by_stem: dict[str, str] = {}
    for name in names:
        other = by_stem.setdefault(_stem(name), name)
        if other != name:
            problems.append(f"{images / name}: {other} differs by its ending alone, and a mask would be of both; rename one")
    concepts = folders_in(masks)
    found: dict[str, list[tuple[int, Path]]] = {}
    for name in (*names, *concepts):
        if not is_utf8(name):
            problems.append(f"{root}: {name!a} is no name in UTF-8; rename it")
    for number, concept in enumerate(concepts, 1):
        folder = masks / concept
        files = _images_under(folder)
        if not files:
            problems.append(f"{folder}: no masks; it must hold NAME.png for an image NAME")
        for file in files:
            if not file.lower().endswith(".png"):
                problems.append(f"{folder / file}: not a PNG; a mask must be one")
            elif _stem(file) not in by_stem:
                problems.append(f"{folder / file}: no image images/{_stem(file)}.*; a mask must have its image's name")
            else:
                found.setdefault(by_stem[_stem(file)], []).append((number, folder / file))
    if not names:
        problems.append(f"{images}: no images; it must hold some ({', '.join(IMAGES)})")
    if not found:
        problems.append(f"{masks}: no labels; it must hold masks/CONCEPT/NAME.png for an image NAME")
    return names, concepts, found, problems


def _images_under(folder: Path) -> list[str]:
    return sorted(Path(path).relative_to(folder).as_posix() for path in images_under(folder))


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
