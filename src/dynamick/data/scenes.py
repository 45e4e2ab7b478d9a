"""Generated scenes: the paper's Fig. 2 as a data set, where the truth about classes and parts is known."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynamick.data import broden
from dynamick.data.parts import DISTRACTORS, OCCLUDER, PARTS, Array, Sketch
from dynamick.errors import InputError

CLASSES: dict[str, tuple[str, ...]] = {
    "laptop": ("keyboard", "screen"),
    "television": ("remote control", "screen"),
    "phone": ("screen", "lens", "speaker"),
    "synthesizer": ("keyboard", "speaker"),
    "drone": ("propeller", "lens", "remote control"),
    "aeroplane": ("wing", "propeller", "window", "wheel"),
    "bicycle": ("wheel", "handlebar"),
    "car": ("wheel", "window", "antenna"),
    "hang glider": ("wing", "handlebar", "sail"),
    "sailing boat": ("sail", "antenna", "window"),
}
"""The parts of every class. No class has all the parts of another one, and every part belongs to two classes or more."""

SPLITS = ("train", "val")
SMALLEST_SIDE = 32
VISIBLE = 0.5
"""The least share of its pixels that each part of an image's class shows."""

PART_RADIUS = np.array([0.135, 0.2])
OTHER_RADIUS = np.array([0.07, 0.13])
"""Least and largest radius of a part, and of anything else, as shares of the image's side."""
APART = 0.9
"""The least distance between things, as a share of the sum of their radii, if there is room."""
TILT = 0.5
"""How far parts lean at most, in radians."""
NOISE = 0.08
"""Every pixel's noise is uniform between minus and plus this, in a range of 1."""

_CHUNK = 64
_KINDS = (*PARTS.values(), *DISTRACTORS.values(), OCCLUDER)
_FIRST_DISTRACTOR, _OCCLUDER = len(PARTS), len(_KINDS) - 1


class _Items(NamedTuple):
    """The n items of a scene, from the back to the front. Lengths are shares of the image's side, in float32."""

    kind: Array  # (n,) int, index into _KINDS
    own: Array  # (n,) bool, a part that the scene's class is made of
    centre: Array  # (n, 2) x and y
    radius: Array  # (n,)
    turn: Array  # (n, 2) cosine and sine
    flip: Array  # (n,) -1 or 1
    colour: Array  # (n, 2, 3) of the body and of the detail


class ComposedScenes(Dataset[tuple[Tensor, int]]):
    """Pictograms of parts in any place, size and colour, some half hidden, among shapes that mean nothing.

    A scene's class is known only by which parts are there (`CLASSES`): a laptop is a keyboard and a screen, a television
    is a remote control and a screen. Backgrounds, colours and places say nothing about it. A scene may hold stray parts
    of other classes, yet never all the parts of another class.

    Args:
        split: `train` or `val`; their scenes are different.
        size: how many scenes. Scene i depends on seed, split and i alone.
        seed: an integer from 0 up.
        image_size: side in pixels, from 32 up.

    Attributes:
        images: uint8, shape (N, 3, H, W), RGB.
        labels: int64, shape (N,).
        part_maps: uint8, shape (N, H, W): 1 + the index of the part that is seen at a pixel, 0 if there is none.
        classes, parts: their names.
        table: bool array, shape (classes, parts), the parts that each class is made of.

    Raises:
        InputError: an argument is not one of those allowed.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> scenes.images.shape, scenes.classes[0]
    (torch.Size([4, 3, 32, 32]), 'laptop')
    """

    def __init__(self, split: str = "train", size: int = 10_000, seed: int = 0, image_size: int = 64) -> None:
        _check(split, size, seed, image_size)
        self.split, self.seed, self.image_size = split, seed, image_size
        self.classes, self.parts = list(CLASSES), list(PARTS)
        self.table = np.array([[part in made_of for part in PARTS] for made_of in CLASSES.values()])
        images = np.empty((size, 3, image_size, image_size), np.uint8)
        part_maps = np.empty((size, image_size, image_size), np.uint8)
        labels = np.empty(size, np.int64)
        for start in range(0, size, _CHUNK):
            some = slice(start, min(start + _CHUNK, size))
            generators = [np.random.default_rng([seed, SPLITS.index(split), i]) for i in range(some.start, some.stop)]
            labels[some] = [rng.integers(len(CLASSES)) for rng in generators]
            images[some], part_maps[some] = _draw(self.table[labels[some]], generators, image_size)
        self.images, self.part_maps, self.labels = map(torch.from_numpy, (images, part_maps, labels))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def masks(self, index: int) -> Tensor:
        """The pixels at which each part is seen in one scene, strays included: bool, shape (parts, H, W), disjoint."""
        return self.part_maps[index] == torch.arange(1, len(self.parts) + 1, dtype=torch.uint8)[:, None, None]

    def write_broden(self, root: str | Path) -> None:
        """Write the scenes in Broden's directory format: pixel maps of category `part`, the class as category `scene`.

        Raises:
            InputError: as `dynamick.data.broden.write`.
        """
        write_broden(root, [self])

    def _records(self) -> Iterator[broden.Record]:
        for i in range(len(self)):
            image, label = self[i]
            maps: dict[str, list[Array | int]] = {
                "part": [self.part_maps[i].numpy().astype(np.uint16)],
                "scene": [len(self.parts) + 1 + label],
            }
            yield broden.Record(f"{self.split}_{i:06d}", self.split, image.permute(1, 2, 0).numpy(), maps)


def write_broden(root: str | Path, scenes: Sequence[ComposedScenes]) -> None:
    """Write scenes of one or more splits, all of one image size, into one directory in Broden's format.

    Args:
        root: a folder without an index.csv; made when there is none.
        scenes: such as those of `train` and those of `val`; each split once.

    Raises:
        InputError: as `dynamick.data.broden.write`; a split is given twice.
    """
    labels = [broden.Label(n, name, "part") for n, name in enumerate(PARTS, 1)]
    labels += [broden.Label(n, name, "scene") for n, name in enumerate(CLASSES, len(PARTS) + 1)]
    splits = [each.split for each in scenes]
    if len(set(splits)) != len(splits):
        raise InputError(f"scenes: splits are {', '.join(splits)}; give each split once")
    broden.write(root, labels, chain.from_iterable(each._records() for each in scenes))


def _check(split: str, size: int, seed: int, image_size: int) -> None:
    if split not in SPLITS:
        raise InputError(f"split: {split!r} is unknown; give {' or '.join(SPLITS)}")
    for name, value, least in (("size", size, 1), ("seed", seed, 0), ("image_size", image_size, SMALLEST_SIDE)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}: {value!r} must be an integer from {least} up")


def _draw(made_of: Array, generators: list[np.random.Generator], side: int) -> tuple[Array, Array]:
    """Draw scenes of the given parts, (B, parts): images, shape (B, 3, H, W), and part maps, shape (B, H, W)."""
    scenes = [_arrange(rng, own) for rng, own in zip(generators, made_of, strict=True)]
    items = _Items(*map(np.concatenate, zip(*scenes, strict=True)))
    patches = _pictograms(items, side)
    kinds = np.append(items.kind, _OCCLUDER)
    images = np.empty((len(scenes), 3, side, side), np.float32)
    part_maps = np.empty((len(scenes), side, side), np.uint8)
    hidden = []
    first = 0
    for b, (scene, rng) in enumerate(zip(scenes, generators, strict=True)):
        these = slice(first, first := first + len(scene.kind))
        image, top = _stack(_background(rng, side), these, patches)
        images[b] = image + 2 * NOISE * (rng.random((3, side, side), np.float32) - np.float32(0.5))
        part_maps[b] = np.where(kinds[top] < _FIRST_DISTRACTOR, kinds[top] + 1, 0)
        seen = np.bincount(top.ravel(), minlength=len(kinds))[these]
        if np.any(scene.own & (seen < VISIBLE * patches.area[these])):
            hidden.append(b)
    drawn = np.rint(255 * images.clip(0, 1)).astype(np.uint8)
    if hidden:
        # About one scene in a thousand hides too much. Then its own generator draws another one.
        drawn[hidden], part_maps[hidden] = _draw(made_of[hidden], [generators[b] for b in hidden], side)
    return drawn, part_maps


def _arrange(rng: np.random.Generator, own: Array) -> _Items:
    """Choose what lies in a scene of the given parts, (parts,), and where."""
    parts = _with_strays(rng, rng.permutation(np.flatnonzero(own)).tolist())
    others = max(0, int(rng.integers(5, 8)) - len(parts))
    occluders = int(rng.integers(3))
    placed = len(parts) + others
    n = placed + occluders
    kind = np.array([*parts, *rng.integers(_FIRST_DISTRACTOR, _OCCLUDER, others), *[_OCCLUDER] * occluders])
    is_part = kind < _FIRST_DISTRACTOR
    least, most = np.where(is_part, PART_RADIUS[:, None], OTHER_RADIUS[:, None])
    radius = least + (most - least) * rng.random(n)
    centre = np.zeros((n, 2))
    centre[:placed] = _spread(radius[:placed].tolist(), rng.random((placed, 24, 2)).tolist())
    # An occluder is on the rim of a part.
    under, way = rng.integers(len(parts), size=occluders), 2 * np.pi * rng.random(occluders)
    rim = centre[under] + 0.7 * radius[under, None] * np.stack([np.cos(way), np.sin(way)], 1)
    centre[placed:] = rim.clip(radius[placed:, None], 1 - radius[placed:, None])
    angle = np.where(is_part, TILT, np.pi) * rng.uniform(-1, 1, n)
    items = _Items(
        kind=kind,
        own=np.arange(n) < np.count_nonzero(own),
        centre=centre.astype(np.float32),
        radius=radius.astype(np.float32),
        turn=np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32),
        flip=rng.choice([-1, 1], n).astype(np.float32),
        colour=_colours(rng, n),
    )
    order = np.append(rng.permutation(placed), np.arange(placed, n))
    return _Items(*(field[order] for field in items))


def _with_strays(rng: np.random.Generator, parts: list[int]) -> list[int]:
    """The parts and up to two more."""
    for _ in range(rng.integers(3)):
        strays = _strays(sum(1 << part for part in parts))
        parts = [*parts, int(rng.choice(strays))] if strays else parts
    return parts


@lru_cache(maxsize=4096)
def _strays(present: int) -> list[int]:
    """The parts that complete no further class when added to those that are present (bit p: part p)."""
    classes = [sum(1 << list(PARTS).index(part) for part in made_of) for made_of in CLASSES.values()]
    missing = [c & ~present for c in classes if c & ~present]
    return [part for part in range(len(PARTS)) if not present >> part & 1 and 1 << part not in missing]


def _spread(radius: list[float], tries: list[list[list[float]]]) -> list[tuple[float, float]]:
    """Put each disc at the first tried place that is not too near to earlier ones, or else at the farthest tried place."""
    placed: list[tuple[float, float, float]] = []
    for r, spots in zip(radius, tries, strict=True):
        best, most = (0.0, 0.0), -1.0
        for across, down in spots:
            x, y = r + (1 - 2 * r) * across, r + (1 - 2 * r) * down
            room = min((((x - p) ** 2 + (y - q) ** 2) / (r + o) ** 2 for p, q, o in placed), default=APART**2)
            if room > most:
                best, most = (x, y), room
            if room >= APART**2:
                break
        placed.append((*best, r))
    return [(x, y) for x, y, _ in placed]


def _colours(rng: np.random.Generator, n: int) -> Array:
    """A body's and a detail's colour for n items, (n, 2, 3): one light and one dark, in random order.

    Light and dark mirror each other. So the mean of every pixel is the same grey, whatever is drawn.
    """
    hue = rng.random((n, 2, 3))
    hue -= hue.min(2, keepdims=True)
    hue /= hue.max(2, keepdims=True)
    colour = rng.uniform(0.1, 0.55, (n, 2, 1)) * hue
    light = rng.integers(2, size=(n, 1, 1)) ^ np.array([[0], [1]])
    return np.where(light, 1 - colour, colour).astype(np.float32)


def _background(rng: np.random.Generator, side: int) -> Array:
    """A gradient between four colours under two faint waves, shape (3, H, W)."""
    across = np.linspace(0, 1, side, dtype=np.float32)
    top_left, right, down, both = rng.uniform(0.15, 0.85, (4, 3, 1, 1)).astype(np.float32)
    left, change = top_left + across[:, None] * (down - top_left), right - top_left
    ground = left + across * (change + across[:, None] * (both - down - change))
    for _ in range(2):
        fx, fy, phase = rng.uniform(-60, 60, 3).astype(np.float32)
        # sin(a + b) by its parts: 4 * side sines instead of side squared.
        a, b = fx * across + phase, fy * across[:, None]
        ground += rng.uniform(-0.06, 0.06, (3, 1, 1)).astype(np.float32) * (np.cos(b) * np.sin(a) + np.sin(b) * np.cos(a))
    return ground


class _Patches(NamedTuple):
    """n drawn items, each in a square of P x P pixels."""

    corner: Array  # (n, 2) int, row and column of the first pixel
    colour: Array  # (n, 3, P, P)
    alpha: Array  # (n, P, P)
    area: Array  # (n,) int, pixels covered


def _pictograms(items: _Items, side: int) -> _Patches:
    """Draw every item in a patch of its own."""
    radius = side * items.radius[:, None, None]
    patch = int(2 * side * PART_RADIUS[1]) + 3
    corner = np.floor(side * items.centre - patch / 2)
    first = (corner + 0.5 - side * items.centre)[:, :, None] + np.arange(patch, dtype=np.float32)
    x, y = first[:, 0, None, :] / radius, first[:, 1, :, None] / radius
    cosine, sine = items.turn.T[:, :, None, None]
    u, v = items.flip[:, None, None] * (cosine * x + sine * y), cosine * y - sine * x
    alpha, shade = np.empty_like(u), np.empty_like(u)
    for kind in np.unique(items.kind):
        these = items.kind == kind
        sketch = Sketch(u[these], v[these], 1 / radius[these])
        _KINDS[kind](sketch)
        alpha[these], shade[these] = sketch.alpha, sketch.shade
    body, detail = items.colour[:, 0, :, None, None], items.colour[:, 1, :, None, None]
    colour = body + shade[:, None] * (detail - body)
    return _Patches(corner[:, ::-1].astype(np.int64), colour, alpha, np.count_nonzero(alpha > 0.5, axis=(1, 2)))


def _stack(background: Array, these: slice, patches: _Patches) -> tuple[Array, Array]:
    """Draw items over each other, from the back: the image, and which one is on top at each pixel (n: none)."""
    margin = patches.alpha.shape[1]
    image = np.pad(background, ((0, 0), (margin, margin), (margin, margin)))
    top = np.full(image.shape[1:], len(patches.alpha))
    for n in range(these.start, these.stop):
        row, column = patches.corner[n] + margin
        there = slice(row, row + margin), slice(column, column + margin)
        alpha, under = patches.alpha[n], image[:, *there]
        under += alpha * (patches.colour[n] - under)
        top[there][alpha > 0.5] = n
    return image[:, margin:-margin, margin:-margin], top[margin:-margin, margin:-margin]
