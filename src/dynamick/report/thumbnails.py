"""Small pictures: JPEG bytes, and rows of top images with the regions outlined."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

TILE = 128
"""Side of one image of a strip, in pixels."""

_LEAST = 2000  # a strip's image hardly ever has fewer characters, so few images are made for nothing
_QUALITY = 78  # of strips
_SHARP = 90  # from this quality on colours keep their full resolution
_GAP = 4


def jpeg(pixels: Array, side: int | None = None, quality: int = _QUALITY) -> bytes:
    """JPEG bytes of uint8 pixels (H, W, 3), shrunk to a longest side in pixels."""
    shrunk = Image.fromarray(np.ascontiguousarray(pixels))
    if side is not None:
        shrunk.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shrunk.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= _SHARP else 2)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """A JPEG as the address of a picture inside a page."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def uri(pixels: Array, quality: int = _QUALITY) -> str:
    """A picture inside a page, of uint8 pixels (H, W, 3)."""
    return data_uri(jpeg(pixels, quality=quality))


def strips(rows: Sequence[Sequence[tuple[Array, Array | None]]], room: float) -> list[str]:
    """One data URI a row: its images side by side, the masks outlined. Empty for a row without images.

    Args:
        rows: images, uint8 (H, W, 3), each with a boolean mask (h, w) of any size, or None.
        room: characters for all strips together. As many images of each row are shown as fit, at least one.
    """
    if not any(rows):
        return []
    longest = max(1, min(max(map(len, rows)), int(room / (_LEAST * len(rows)))))
    tiles = [[_tile(*each) for each in row[:longest]] for row in rows]
    made: list[str] = []
    for count in range(longest, 0, -1):
        made = [data_uri(jpeg(_side_by_side(row[:count]))) if row else "" for row in tiles]
        if sum(map(len, made)) <= room:
            break
    return made


def _side_by_side(tiles: Sequence[Array]) -> Array:
    gap = np.full((TILE, _GAP, 3), 128, np.uint8)  # neither a light page nor a dark one makes it glare
    return np.concatenate([part for tile in tiles for part in (gap, tile)][1:], axis=1)


def _tile(image: Array, mask: Array | None) -> Array:
    """A square image with its mask's outline: a light line beside a dark one, visible on any background."""
    bilinear = Image.Resampling.BILINEAR
    pixels = np.array(Image.fromarray(image).resize((TILE, TILE), bilinear, reducing_gap=1.0))
    if mask is None:
        return pixels
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((TILE, TILE), bilinear)) > 127
    rim = _edge(inside)
    wide = np.logical_or.reduce([_shifted(rim, v, u) for v in (-1, 0, 1) for u in (-1, 0, 1)])
    pixels[wide & inside] = (255, 226, 90)
    pixels[wide & ~inside] = (20, 20, 20)
    return pixels


def _edge(inside: Array) -> Array:
    return np.logical_or.reduce([_shifted(inside, v, u) != inside for v, u in ((0, 1), (1, 0), (0, -1), (-1, 0))])


def _shifted(values: Array, v: int, u: int) -> Array:
    padded = np.pad(values, 1, mode="edge")
    return padded[1 + v : padded.shape[0] - 1 + v, 1 + u : padded.shape[1] - 1 + u]
