"""Small pictures inside a page: JPEG data URIs, as good as their space allows."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

TILE = 72
"""Side of one image of a strip, in pixels."""

_FORMATS = ((256, 90), (256, 75), (192, 75), (128, 75), (96, 60))  # longest side in pixels, JPEG quality
_LEAST = 1000  # a strip's image hardly ever has fewer characters, so few images are made for nothing
_QUALITY = 72  # of strips
_SHARP = 90  # from this quality on colours keep their full resolution


def picture(pixels: Array, quality: int) -> str:
    """A data URI of uint8 pixels (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= _SHARP else 2)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures(images: Sequence[Array], room: float) -> list[str]:
    """Data URIs of uint8 images (H, W, 3), shrunk until all of them together take at most `room` characters."""
    made: list[str] = []
    for side, quality in _FORMATS:
        made = [picture(_shrunk(image, side), quality) for image in images]
        if sum(map(len, made)) <= room:
            break
    return made


def strips(rows: Sequence[Sequence[tuple[Array, Array | None]]], room: float, order: Sequence[int]) -> list[str]:
    """One data URI a row: its images side by side, dimmed outside their masks. Empty for a row without images.

    Args:
        rows: images, uint8 (H, W, 3), each with a boolean mask (h, w) of any size, or None.
        room: characters for all strips together. As many images of each row are shown as fit. If there is no space for one
            of each, the first rows in `order` get one.
        order: the rows' numbers, the most important first.
    """
    if not any(rows):
        return []
    longest = min(max(map(len, rows)), int(room / (_LEAST * len(rows))))
    tiles = [[_tile(*each) for each in row[:longest]] for row in rows]
    for count in range(longest, 0, -1):
        made = [picture(np.concatenate(row[:count], axis=1), _QUALITY) if row else "" for row in tiles]
        if sum(map(len, made)) <= room:
            return made
    made = [""] * len(rows)
    for row in order:
        if rows[row]:
            strip = picture(_tile(*rows[row][0]), _QUALITY)
            room -= len(strip)
            if room < 0:
                break
            made[row] = strip
    return made


def _tile(image: Array, mask: Array | None) -> Array:
    """A small square image with its mask's outline: a light line beside a dark one, visible on any background."""
    bilinear = Image.Resampling.BILINEAR
    pixels = np.array(Image.fromarray(image).resize((TILE, TILE), bilinear, reducing_gap=1.0))
    if mask is None:
        return pixels
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((TILE, TILE), bilinear)) > 127
    padded = np.pad(inside, 1, mode="edge")
    neighbours = [padded[1 + v : 1 + v + TILE, 1 + u : 1 + u + TILE] for v, u in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    rim = np.logical_or.reduce([each != inside for each in neighbours])
    pixels[~inside] //= 2
    pixels[rim & inside] = (255, 226, 90)
    pixels[rim & ~inside] = (20, 20, 20)
    return pixels


def _shrunk(image: Array, side: int) -> Array:
    shrunk = Image.fromarray(image)
    shrunk.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(shrunk)
