"""The explanation page's pictures: those inside it as good as its size allows, or as files beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dynamick.report.explanation_parts import Array, Page, TopImage
from dynamick.report.outlines import outline
from dynamick.report.thumbnails import data_uri, jpeg

_SHOWN = ((256, 90), (256, 80), (256, 65), (192, 70), (128, 75))  # longest side in pixels, JPEG quality
_TOP = ((192, 80, 4), (160, 75, 4), (128, 75, 4), (128, 72, 3), (128, 72, 2), (128, 72, 1))  # and images a unit
_SIDE, _QUALITY, _TOP_IMAGES = 256, 90, 4
SHOWN_BYTES = 2_600_000
"""Of the pictures of 50 explained images inside the page."""


@dataclass
class Pictures:
    """A page's pictures.

    Attributes:
        sources: an address, width and height of each; the explained images' are the first.
        tops: for each unit its top images: a picture's place in `sources`, and the path of its region's outline.
        files: bytes to write beside the page, by file name; empty if the page holds its pictures.
    """

    sources: list[tuple[str, int, int]] = field(default_factory=list)
    tops: list[list[tuple[int, str]]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """About how many characters they take in the page."""
        outlines = sum(len(path) + 12 for row in self.tops for _, path in row)
        return outlines + sum(len(source) + 16 for source, _, _ in self.sources)


def pictures_inside(page: Page, room: float, scale: float, order: Sequence[int]) -> Pictures:
    """Pictures as data URIs.

    Args:
        page: the page.
        room: characters for all of them.
        scale: how many times as many images as 50 there are.
        order: the units, the most important first: if not all can have pictures, these do.
    """
    shown = [each.image for each in page.instances]
    for side, quality in _SHOWN:
        made = [_inside(image, side, quality) for image in shown]
        if sum(len(source) for source, _, _ in made) <= SHOWN_BYTES * scale:
            break
    rows = [unit.top_images for unit in page.units]
    left = room - Pictures(made).size
    if not any(rows):
        return Pictures(made)
    for side, quality, count in _TOP:
        found = _with_tops(made, [row[:count] for row in rows], side, quality, left)
        if found is not None:
            return found
    kept: list[Sequence[TopImage]] = [()] * len(rows)
    for unit in order:
        if left < 0:
            break
        if rows[unit]:
            kept[unit] = rows[unit][:1]
            left -= len(_inside(rows[unit][0].image, side, quality)[0]) + 500
    return _with_tops(made, kept, side, quality, np.inf) or Pictures(made)


def pictures_beside(page: Page, folder: str) -> Pictures:
    """Pictures as files in a folder, whose address from the page is given; each in display size."""
    found = Pictures()
    rows = [unit.top_images[:_TOP_IMAGES] for unit in page.units]

    def add(image: Array, name: str) -> int:
        found.files[name] = jpeg(image, _SIDE, _QUALITY)
        found.sources.append((f"{folder}/{name}", *_size(image, _SIDE)))
        return len(found.sources) - 1

    for number, each in enumerate(page.instances, start=1):
        add(each.image, f"image-{number:04}.jpg")
    found.tops += _tops(rows, lambda image, number: add(image, f"top-{number:04}.jpg"))
    return found


def _with_tops(
    shown: list[tuple[str, int, int]], rows: Sequence[Sequence[TopImage]], side: int, quality: int, room: float
) -> Pictures | None:
    """With the units' top images, each picture once; None if they take more than the room."""
    found, used = Pictures(list(shown)), 0

    def add(image: Array, _: int) -> int:
        nonlocal used
        found.sources.append(_inside(image, side, quality))
        used += len(found.sources[-1][0]) + 16
        return len(found.sources) - 1

    for row in _tops(rows, add):
        used += sum(len(path) + 12 for _, path in row)
        if used > room:
            return None
        found.tops.append(row)
    return found


def _tops(rows: Sequence[Sequence[TopImage]], add: Callable[[Array, int], int]) -> Iterator[list[tuple[int, str]]]:
    """For each unit its pictures' places and outlines; `add` takes each new picture with its number, and gives its place."""
    places: dict[int, int] = {}
    for row in rows:
        made = []
        for top in row:
            place = places.get(id(top.image)) if top.instance is None else top.instance
            if place is None:
                place = places[id(top.image)] = add(top.image, len(places) + 1)
            made.append((place, "" if top.mask is None else outline(top.mask)))
        yield made


def _inside(image: Array, side: int, quality: int) -> tuple[str, int, int]:
    return data_uri(jpeg(image, side, quality)), *_size(image, side)


def _size(image: Array, side: int) -> tuple[int, int]:
    h, w = image.shape[:2]
    scale = min(1.0, side / max(h, w))
    return max(1, round(w * scale)), max(1, round(h * scale))


def as_json(pictures: Pictures) -> dict[str, Any]:
    """What the page's scripts read."""
    return {
        "pictures": [list(each) for each in pictures.sources],
        "tops": [[list(top) for top in row] for row in pictures.tops],
    }
