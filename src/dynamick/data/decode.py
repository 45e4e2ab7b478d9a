"""Image files as arrays, with one line that says what is wrong with a file that cannot be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dynamick.errors import InputError

_COLOUR = ("RGB", "RGBA", "P")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values where height and width change places."""
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path) -> NDArray[np.uint8]:
    """As `open_image`: uint8, shape (H, W, 3)."""
    return np.array(open_image(path))


def open_image(path: Path) -> Image.Image:
    """The image in a file as RGB, upright as its EXIF says; of 16 bits the upper 8.

    Raises:
        InputError: there is no such file, it cannot be decoded, or its numbers have no range.
    """
    image = _open(path)
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError(f"{path}: mode is F, numbers without a range; an image must have 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:
        # Of a palette's transparent colours Pillow warns otherwise.
        image = image.convert("RGBA")
    rgb: Image.Image = image if image.mode == "RGB" else image.convert("RGB")
    return rgb


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of the image in a file, upright, from its header; pixels are not decoded.

    Raises:
        InputError: there is no such file, or it is no image.
    """
    image = _open(path, decode=False)
    return (image.width, image.height) if _orientation(image) in _TURNED else (image.height, image.width)


def read_label_map(path: Path) -> NDArray[np.int32]:
    """A map of label numbers, R + 256 * G of a colour PNG: int32, shape (h, w) (docs/definitions.md, "Network Dissection").

    Raises:
        InputError: there is no such file, it cannot be decoded, or it has no colours.
    """
    image = _open(path)
    if image.mode not in _COLOUR:
        raise InputError(f"{path}: mode is {image.mode}; a label map must be an RGB image, label = R + 256 * G")
    colours = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return colours[..., 0] + (colours[..., 1].astype(np.int32) << 8)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where an image is not black: bool, shape (h, w). A gray, palette or colour image; transparency does not count.

    Raises:
        InputError: there is no such file, or it cannot be decoded.
    """
    image = _open(path)
    pixels = np.asarray(image.convert("RGB") if image.mode in (*_COLOUR, "CMYK") else image)
    if image.mode in ("LA", "La"):
        pixels = pixels[..., 0]
    return np.asarray(pixels != 0 if pixels.ndim == 2 else pixels.any(2))


def text(size: Sequence[int]) -> str:
    """A size as text: height x width in pixels."""
    return f"{size[0]} x {size[1]}"


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers it: 1 is upright."""
    return int(image.getexif().get(_ORIENTATION, 1)) if "exif" in image.info else 1


def _open(path: Path, decode: bool = True) -> Any:
    """The image in a file, or only what its header says."""
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; an image must be there") from None
    except _UNREADABLE as error:
        reason = (
            "no known image format" if isinstance(error, Image.UnidentifiedImageError) else str(error) or type(error).__name__
        )
        raise InputError(f"{path}: cannot be read as an image ({reason}); it must be a whole PNG or JPEG") from None
