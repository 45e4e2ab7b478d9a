"""The pictograms of `ComposedScenes`, drawn by signed distances: negative inside a shape, in units of the part's radius.

Every function draws a whole batch at once. It uses only +, -, *, /, sqrt, min and max: these are rounded the same way for any
shape of the batch. So an image does not depend on the images that are drawn beside it.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BODY, DETAIL = 0.0, 1.0
RIM = 0.11
"""Width of the outlines, in radii: about one pixel of a 64-pixel image."""


class Sketch:
    """A batch of pictograms being drawn, one shape over the other.

    Attributes:
        u, v: the place of each pixel in the part's own frame (right, down; the part fills the unit disc), shape (N, P, P).
        alpha: what the pictogram covers of each pixel, 0 to 1, same shape.
        shade: 0 where the body's colour is, 1 where the detail's is, same shape.
    """

    def __init__(self, u: Array, v: Array, pixel: Array) -> None:
        self.u, self.v, self.pixel = u, v, pixel
        self.alpha, self.shade = np.zeros_like(u), np.ones_like(u)

    def fill(self, distance: Array, shade: float) -> None:
        """Paint a shape over what is there; its edge is one pixel soft."""
        cover = np.clip(0.5 - distance / self.pixel, 0, 1)
        self.shade += cover * (shade - self.shade)
        np.maximum(self.alpha, cover, out=self.alpha)

    def outlined(self, distance: Array) -> None:
        """Paint a body with a rim in the detail's colour, so that it stands out from any background."""
        self.fill(distance, DETAIL)
        self.fill(distance + RIM, BODY)

    def disc(self, x: float, y: float, radius: float) -> Array:
        return np.sqrt((self.u - x) ** 2 + (self.v - y) ** 2) - radius

    def box(self, x: float, y: float, half_width: float, half_height: float, corner: float = 0.0) -> Array:
        right = np.abs(self.u - x) - (half_width - corner)
        down = np.abs(self.v - y) - (half_height - corner)
        outside = np.sqrt(np.maximum(right, 0) ** 2 + np.maximum(down, 0) ** 2)
        return outside + np.minimum(np.maximum(right, down), 0) - corner

    def bar(self, x0: float, y0: float, x1: float, y1: float, half_width: float) -> Array:
        """A line with round ends."""
        along, down = x1 - x0, y1 - y0
        share = np.clip(((self.u - x0) * along + (self.v - y0) * down) / (along**2 + down**2), 0, 1)
        return np.sqrt((self.u - x0 - share * along) ** 2 + (self.v - y0 - share * down) ** 2) - half_width

    def polygon(self, *corners: tuple[float, float], mirrored: bool = False) -> Array:
        """A convex polygon, corners clockwise as seen; `mirrored` draws its mirror image beside it."""
        u = np.abs(self.u) if mirrored else self.u
        edges = []
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
            edges.append(((y1 - y0) / length) * (u - x0) - ((x1 - x0) / length) * (self.v - y0))
        return np.maximum.reduce(edges)


def keyboard(s: Sketch) -> None:
    s.outlined(s.box(0, 0, 0.98, 0.58, 0.12))
    for row in (-0.3, 0.0):
        for column in (-0.68, -0.34, 0.0, 0.34, 0.68):
            s.fill(s.box(column, row, 0.115, 0.1), DETAIL)
    s.fill(s.box(0, 0.3, 0.5, 0.1), DETAIL)


def screen(s: Sketch) -> None:
    s.fill(s.box(0, 0, 0.95, 0.72, 0.08), DETAIL)
    s.fill(s.box(0, 0, 0.76, 0.53), BODY)
    s.fill(s.bar(-0.5, 0.12, -0.12, -0.26, 0.05), DETAIL)
    s.fill(s.bar(-0.3, 0.26, 0.22, -0.26, 0.05), DETAIL)


def remote_control(s: Sketch) -> None:
    s.outlined(s.box(0, 0, 0.38, 0.98, 0.16))
    s.fill(s.disc(0, -0.64, 0.15), DETAIL)
    for row in (-0.22, 0.12, 0.46):
        for column in (-0.13, 0.13):
            s.fill(s.disc(column, row, 0.085), DETAIL)


def speaker(s: Sketch) -> None:
    s.outlined(s.box(0, 0, 0.62, 0.92, 0.06))
    s.fill(s.disc(0, -0.52, 0.2), DETAIL)
    s.fill(s.disc(0, 0.24, 0.44), DETAIL)
    s.fill(s.disc(0, 0.24, 0.29), BODY)
    s.fill(s.disc(0, 0.24, 0.13), DETAIL)


def lens(s: Sketch) -> None:
    s.outlined(s.disc(0, 0, 0.92))
    s.fill(s.disc(0, 0, 0.6), DETAIL)
    s.fill(s.disc(-0.2, -0.22, 0.2), BODY)


def antenna(s: Sketch) -> None:
    s.fill(s.bar(0, -0.85, 0, 0.9, 0.09), DETAIL)
    for row, half in ((-0.62, 0.36), (-0.24, 0.56), (0.14, 0.76)):
        s.fill(s.bar(-half, row, half, row, 0.09), BODY)


def wheel(s: Sketch) -> None:
    s.fill(s.disc(0, 0, 0.95), DETAIL)
    s.fill(s.disc(0, 0, 0.7), BODY)
    inside = s.disc(0, 0, 0.75)
    diagonal = 0.5**0.5
    for across in (s.u, s.v, (s.u + s.v) * diagonal, (s.u - s.v) * diagonal):
        s.fill(np.maximum(np.abs(across) - 0.055, inside), DETAIL)
    s.fill(s.disc(0, 0, 0.2), DETAIL)


def handlebar(s: Sketch) -> None:
    s.fill(s.bar(0, -0.35, 0, 0.8, 0.11), BODY)
    s.fill(s.bar(-0.5, -0.4, 0.5, -0.4, 0.11), BODY)
    for side in (-1, 1):
        s.fill(s.bar(side * 0.5, -0.4, side * 0.82, 0.0, 0.11), BODY)
        s.fill(s.bar(side * 0.8, 0.0, side * 0.56, 0.3, 0.16), DETAIL)
    s.fill(s.disc(0, -0.4, 0.2), DETAIL)


def wing(s: Sketch) -> None:
    half = s.polygon((0, -0.6), (0.97, 0.22), (0.97, 0.55), (0, 0.22), mirrored=True)
    s.outlined(half)
    tips = s.polygon((0.68, -0.2), (0.84, -0.2), (0.84, 0.7), (0.68, 0.7), mirrored=True)
    s.fill(np.maximum(half, tips), DETAIL)
    for side in (-0.42, 0.42):
        s.fill(s.disc(side, 0.04, 0.12), DETAIL)


def propeller(s: Sketch) -> None:
    for x, y in ((0.0, -1.0), (0.866, 0.5), (-0.866, 0.5)):
        along, across = s.u * x + s.v * y, s.u * y - s.v * x
        # A blade is the overlap of two discs: pointed at both ends.
        blade = np.sqrt((along - 0.5) ** 2 + (np.abs(across) + 0.38) ** 2) - 0.63
        s.outlined(blade)
    s.fill(s.disc(0, 0, 0.22), DETAIL)
    s.fill(s.disc(0, 0, 0.09), BODY)


def window(s: Sketch) -> None:
    s.fill(np.minimum(s.box(0, 0.27, 0.62, 0.65), s.disc(0, -0.32, 0.62)), DETAIL)
    pane = np.minimum(s.box(0, 0.27, 0.48, 0.51), s.disc(0, -0.3, 0.48))
    s.fill(np.maximum(pane, 0.08 - np.minimum(np.abs(s.u), np.abs(s.v - 0.1))), BODY)


def sail(s: Sketch) -> None:
    main = s.polygon((0.02, -0.92), (0.85, 0.62), (0.02, 0.62))
    s.outlined(main)
    for row in (-0.2, 0.2):
        s.fill(np.maximum(main, np.abs(s.v - row) - 0.06), DETAIL)
    s.outlined(s.polygon((-0.14, -0.6), (-0.14, 0.62), (-0.75, 0.62)))
    s.fill(s.bar(-0.75, 0.82, 0.8, 0.82, 0.08), DETAIL)


def ball(s: Sketch) -> None:
    s.outlined(s.disc(0, 0, 0.8))


def slab(s: Sketch) -> None:
    s.fill(s.box(0, 0, 0.95, 0.32, 0.1), BODY)


def card(s: Sketch) -> None:
    s.outlined(s.box(0, 0, 0.8, 0.6, 0.08))


def wedge(s: Sketch) -> None:
    s.outlined(s.polygon((0, -0.85), (0.8, 0.6), (-0.8, 0.6)))


def cross(s: Sketch) -> None:
    s.outlined(np.minimum(s.box(0, 0, 0.85, 0.28), s.box(0, 0, 0.28, 0.85)))


def crescent(s: Sketch) -> None:
    s.outlined(np.maximum(s.disc(0, 0, 0.9), -s.disc(0.42, -0.1, 0.68)))


def zigzag(s: Sketch) -> None:
    corners = ((-0.85, 0.3), (-0.4, -0.35), (0.0, 0.3), (0.4, -0.35), (0.85, 0.3))
    for (x0, y0), (x1, y1) in pairwise(corners):
        s.fill(s.bar(x0, y0, x1, y1, 0.13), DETAIL)


def _by_name(*drawings: Callable[[Sketch], None]) -> dict[str, Callable[[Sketch], None]]:
    return {drawing.__name__.replace("_", " "): drawing for drawing in drawings}


PARTS = _by_name(keyboard, screen, remote_control, speaker, lens, antenna, wheel, handlebar, wing, propeller, window, sail)
DISTRACTORS = _by_name(ball, card, wedge, cross, crescent, zigzag)
OCCLUDER = slab
