"""The maps that can still count, kept compactly until the thresholds are final: what makes one pass enough."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamick.dissection.selecting import above, select

Array = npt.NDArray[np.generic]


class Piece(NamedTuple):
    """S surviving maps of one batch. A location is kept when it or a neighbour (3x3) is above the bound: no other
    location has a share in a pixel of the upsampled map that is above it."""

    images: Array  # (S,) uint16 or int32, place in the batch
    units: Array  # (S,) uint16 or int32
    kept: Array  # (S, ceil(h * w / 8)) uint8, one bit a location
    values: Array  # float32, of the locations kept, map after map

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


def reduce(images_S: Tensor, units_S: Tensor, maps_Shw: Tensor, bound_U: Tensor) -> Piece:
    """Keep what can still count of maps: float32, shape (S, h, w), of the given images and units (int64, shape (S,))."""
    bound_S = bound_U[units_S]
    some = maps_Shw.flatten(1).amax(1) > bound_S
    images_S, units_S, maps_Shw, bound_S = images_S[some], units_S[some], maps_Shw[some], bound_S[some]
    near = _near(above(maps_Shw, bound_S[:, None, None]))
    values = select(maps_Shw, near).cpu().numpy()
    kept = np.packbits(near.flatten(1).cpu().numpy(), axis=1)
    images, units = (_narrow(numbers.cpu().numpy()) for numbers in (images_S, units_S))
    return Piece(images, units, kept, values)


def _near(above_Shw: Tensor) -> Tensor:
    """True also beside what is true. Shifted as one long row, which is fast, it takes in a few more at the edges: no harm."""
    shape = above_Shw.shape
    near = above_Shw.flatten()
    for step in (1, shape[2]):
        before = near.clone()
        near[step:] |= before[:-step]
        near[:-step] |= before[step:]
    return near.view(shape)


def restore(piece: Piece, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Images and units (int64, shape (S,)) and maps (float32, shape (S, h, w)), -inf where nothing was kept."""
    size = shape[0] * shape[1]
    near = np.unpackbits(piece.kept.view(np.uint8), axis=1, count=size).astype(bool)
    maps = np.full((len(piece.units), size), -np.inf, np.float32)
    maps[near] = piece.values
    images, units = (torch.from_numpy(numbers.astype(np.int64)) for numbers in (piece.images, piece.units))
    return images, units, torch.from_numpy(maps).view(-1, *shape)


def _narrow(numbers: Array) -> Array:
    return numbers.astype(np.uint16 if not numbers.size or numbers.max() < 2**16 else np.int32)


class Survivors:
    """Surviving maps, batch by batch, in memory or as one file a batch in a folder.

    They are filtered again with the risen bound whenever they have grown by half, so that about 1.5 times what is above
    the current bound is held: at most `count` locations a unit (see `TopValues`), each with its 8 neighbours.

    Args:
        shape: height and width of the maps.
        folder: where they are kept; None keeps them in memory. Files already there are found again.
    """

    SLACK = 1.5
    LEAST = 1 << 21

    def __init__(self, shape: tuple[int, int], folder: Path | None = None) -> None:
        self.shape, self.folder = shape, folder
        self._pieces: dict[int, Piece | None] = {}
        self._sizes: dict[int, int] = {}
        self._compacted = self.LEAST
        self.peak = 0
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.npz"):
                batch = int(path.stem)
                self._pieces[batch], self._sizes[batch] = None, path.stat().st_size

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(self._sizes.values())

    def add(self, batch: int, piece: Piece) -> None:
        """Keep a batch's maps, in place of any kept for it before."""
        self._sizes[batch] = piece.nbytes
        if self.folder:
            write_atomically(self._path(batch), _packed(piece))
            self._pieces[batch] = None
        else:
            self._pieces[batch] = piece
        self.peak = max(self.peak, self.nbytes)

    def holds(self, batches: Iterable[int]) -> bool:
        """Are the maps of all these batches here?"""
        return all(batch in self._pieces for batch in batches)

    def get(self, batch: int) -> Piece:
        """A batch's maps."""
        piece = self._pieces[batch]
        if piece is None:
            with np.load(self._path(batch)) as stored:
                piece = Piece(*(stored[name] for name in Piece._fields))
        return piece

    def full(self) -> bool:
        """Is it time to `compact`?"""
        return self.nbytes > self.SLACK * self._compacted

    def compact(self, bound_U: Tensor) -> None:
        """Drop what is not above the bound."""
        bound = bound_U.cpu()
        for batch in list(self._pieces):
            self.add(batch, reduce(*restore(self.get(batch), self.shape), bound))
        self._compacted = max(self.nbytes, self.LEAST)

    def _path(self, batch: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{batch:08d}.npz"


def _packed(piece: Piece) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **piece._asdict())
    return buffer.getvalue()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whenever the process is killed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
