"""Image files as arrays, with one line that says what is wrong with a file that cannot be read."""

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynamick.errors import InputError

_COLOUR = ("RGB", "RGBA", "P")
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""The formats that are opened. Pillow knows more, and for one of them it runs a program (Ghostscript)."""
_TAG = 0x0112
"""EXIF's number for how an image is to be turned."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn it upright, by that tag's value. From 5 on, height and width change places."""
_IN_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\b""")
_SAYING = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_ALONE = threading.Lock()
"""Python's filters of warnings are one for all threads."""


def read_image(path: Path) -> NDArray[np.uint8]:
    """As `open_image`: uint8, shape (H, W, 3)."""
    return np.array(open_image(path))


def open_image(path: Path) -> Image.Image:
    """The image in a file as RGB, upright as its EXIF or XMP says; of 16 bits the upper 8.

    Raises:
        InputError: there is no such file, it cannot be decoded, or its numbers have no range.
    """
    return as_rgb(_open(path), str(path))


def as_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """An image of Pillow's as RGB, upright as its EXIF or XMP says; of 16 bits the upper 8.

    Raises:
        InputError: its numbers have no range; the message begins with `name`.
    """
    if (orientation := _orientation(image)) in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode == "F":
        raise InputError(f"{name}: mode is F, numbers without a range; an image must have 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:
        # Otherwise Pillow warns of a palette's transparent colours.
        image = image.convert("RGBA")
    rgb: Image.Image = image if image.mode == "RGB" else image.convert("RGB")
    return rgb


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of the image in a file, upright, from its header; pixels are not decoded.

    Raises:
        InputError: there is no such file, or it is no image.
    """
    image = _open(path, decode=False)
    return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


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
    """As EXIF numbers it: 1 is upright, and so is what is said in another form than EXIF's. Pillow itself turns TIFFs."""
    if not _SAYING & image.info.keys():
        return 1
    try:
        with _quietly():
            said = image.getexif().get(_TAG)
    except Exception:  # for damaged EXIF Pillow raises many kinds of errors
        said = None
    if isinstance(said, int) and 1 <= said <= 8:
        return said
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    found = _IN_XMP.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(found[1]) if found else 1


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings of damaged EXIF: the image is read without it."""
    with _ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _formats() -> tuple[str, ...]:
    """Those of them that this Pillow, with what else is installed, can open."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open(path: Path, decode: bool = True) -> Any:
    """The image in a file, or only what its header says."""
    try:
        with _quietly():
            opened = Image.open(path, formats=_formats())
        with opened as image:
            if decode:
                image.load()
            return image
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; an image must be there") from None
    except Exception as error:  # for damaged files Pillow's decoders raise many kinds of errors
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = "no known image format" if unknown else str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason}); it must be a whole PNG or JPEG") from None
