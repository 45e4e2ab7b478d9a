"""The outline of a region as an SVG path, sharp at any size: a page draws it over the picture, which stays as it is."""

from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image

SIDE = 100
"""Outlines are in a box of so many units a side, whatever the picture's size."""
_CELLS = 28
_SMALLEST = 4.0
"""Islands of a smaller area, in those units squared times 4, are specks and are not drawn."""


def outline(region: NDArray[Any]) -> str:
    """Around where a map is above a half: a path in a box of `SIDE` by `SIDE`; empty where nothing is.

    Args:
        region: (h, w), boolean, or a float that is above 0.5 inside.
    """
    values = np.asarray(region, dtype=np.float32)
    if max(values.shape) > _CELLS:
        size = (min(values.shape[1], _CELLS), min(values.shape[0], _CELLS))
        values = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))
    h, w = values.shape
    # A border of nothing, so that a region at the picture's edge is closed along that edge.
    padded = np.pad(np.clip(values, 0, 1), 1)
    x, y = ((np.arange(-1, n + 1) + 0.5).clip(0, n) * SIDE / n for n in (w, h))
    lines = contour_generator(x, y, padded).lines(0.5)
    return "".join(_path(np.asarray(line)) for line in lines if _area(np.asarray(line)) >= _SMALLEST)


def _path(line: NDArray[Any]) -> str:
    whole = np.round(line).astype(int)
    first = np.sort(np.unique(whole, axis=0, return_index=True)[1])
    points = whole[first]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return "M" + "L".join(f"{x} {y}" for x, y in points[bends].tolist()) + "Z"


def _area(line: NDArray[Any]) -> float:
    x, y = line.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
