"""An image file as RGB, resized and cropped."""

from pathlib import Path

import numpy as np
from PIL import Image

from dynamick.data import decode

LONG = 8
"""If an image is longer than this many of its shorter sides, it is cropped before it is resized, and not after."""


def read_image(path: str | Path, size: int | None = None, center_crop: bool = False) -> Image.Image:
    """An image file as RGB, upright; with a size, its shorter side resized to it and cropped square in the middle.

    Args:
        path: the file.
        size: side in pixels; None leaves the image whole.
        center_crop: of that square the middle 7/8 only, as networks for 224 pixels are usually evaluated
            (docs/definitions.md, "Models and recipes"); an image that already has the size stays whole.

    Raises:
        InputError: it is no image, or damaged.

    >>> from PIL import Image
    >>> Image.new("L", (80, 60)).save("photo.png")
    >>> dk.data.read_image("photo.png", size=32).size
    (32, 32)
    """
    return fitted(decode.open_image(Path(path)), size, center_crop)


def fitted(image: Image.Image, size: int | None = None, center_crop: bool = False) -> Image.Image:
    """An RGB image, resized and cropped as `read_image` says."""
    if size is None or image.size == (size, size):
        return image
    shorter = round(size * 8 / 7) if center_crop else size
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    if max(width, height) > LONG * shorter:
        # A long line of pixels, enlarged as a whole, would take gigabytes.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), Image.Resampling.BILINEAR, box)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def display_image(image: Image.Image, size: int, center_crop: bool, longest: int) -> Image.Image:
    """The part of a whole image that `fitted` gives a network, in the image's own pixels, or shrunk to `longest` a side."""
    image = image.copy()
    if image.size != (size, size):
        side = min(image.size) * (7 / 8 if center_crop else 1)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.crop((round(left), round(top), round(left + side), round(top + side)))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def random_resized_crop(
    image: Image.Image, size: int, rng: np.random.Generator, least: float = 0.08, flip: bool = True
) -> Image.Image:
    """A random part: from the least share of the area to all of it, ratio 3/4 to 4/3, as a square, flipped at random."""
    for _ in range(10):
        area = image.width * image.height * rng.uniform(least, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < width <= image.width and 0 < height <= image.height:
            break
    else:
        width = height = min(image.size)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    crop = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and rng.random() < 0.5 else crop
