"""The maps that can still count, kept in little space until the thresholds are final. So one pass is enough."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynamick.dissection.selecting import places
from dynamick.errors import InputError
from dynamick.files import write_atomically

Array = npt.NDArray[np.generic]


class Piece(NamedTuple):
    """S surviving maps of one batch. A location is kept if it or a neighbour (3x3) is above the bound: no other
    location contributes to a pixel of the upsampled map that is above it."""

    images: Array  # (S,) uint16 or int32, place in the batch
    units: Array  # (S,) uint16 or int32
    kept: Array  # (S, ceil(h * w / 8)) uint8, one bit a location
    values: Array  # float32, of the locations kept, map after map

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


def reduce(maps_BUhw: Tensor, above_BUhw: Tensor, some_BU: Tensor) -> Piece:
    """Keep what can still count of a batch's maps, float32.

    Args:
        above_BUhw: where they are above the bound, bool.
        some_BU: whether they are anywhere, bool.
    """
    _, U, h, w = maps_BUhw.shape
    maps_S = places(some_BU)
    near_SP = _near(above_BUhw.view(-1, h, w).index_select(0, maps_S)).flatten(1)
    # From places among the maps that survive to places among all.
    shift_S = (maps_S - torch.arange(len(maps_S), device=maps_S.device)) * (h * w)
    kept = places(near_SP) + shift_S.repeat_interleave(near_SP.sum(1))
    images, units = (_narrow(numbers.cpu().numpy()) for numbers in (maps_S // U, maps_S % U))
    values = maps_BUhw.flatten().index_select(0, kept)
    return Piece(images, units, np.packbits(near_SP.cpu().numpy(), axis=1), values.cpu().numpy())


def reduce_again(piece: Piece, shape: tuple[int, int], bound_U: Tensor) -> Piece:
    """The part of a piece that is left after the bound has risen."""
    bound_S = bound_U.numpy()[piece.units]
    kept_SP = _unpacked(piece, shape)
    counts = kept_SP.sum(1)
    some = np.maximum.reduceat(piece.values, counts.cumsum() - counts) > bound_S
    kept_SP, values = kept_SP[some], piece.values[np.repeat(some, counts)]
    above_SP = np.zeros(kept_SP.shape, bool)
    above_SP[kept_SP] = values > np.repeat(bound_S[some], counts[some])
    # Only within what was kept before: the rest has no values.
    near_SP = kept_SP & _near(torch.from_numpy(above_SP).view(-1, *shape)).flatten(1).numpy()
    return Piece(piece.images[some], piece.units[some], np.packbits(near_SP, axis=1), values[near_SP[kept_SP]])


def _near(above_Shw: Tensor) -> Tensor:
    """True also beside what is true. It is shifted as one long row, which is fast; a few more at the edges do no harm."""
    shape = above_Shw.shape
    near = above_Shw.flatten().clone()
    for step in (1, shape[2]):
        before = near.clone()
        near[step:] |= before[:-step]
        near[:-step] |= before[step:]
    return near.view(shape)


def restore(piece: Piece, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Images and units (int64, shape (S,)) and maps (float32, shape (S, h, w)), -inf where nothing was kept."""
    kept_SP = _unpacked(piece, shape)
    maps = np.full(kept_SP.shape, -np.inf, np.float32)
    maps[kept_SP] = piece.values
    images, units = (torch.from_numpy(numbers.astype(np.int64)) for numbers in (piece.images, piece.units))
    return images, units, torch.from_numpy(maps).view(-1, *shape)


def _unpacked(piece: Piece, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    return np.unpackbits(piece.kept.view(np.uint8), axis=1, count=shape[0] * shape[1]).view(bool)


def _narrow(numbers: Array) -> Array:
    return numbers.astype(np.uint16 if not numbers.size or numbers.max() < 2**16 else np.int32)


class Survivors:
    """Surviving maps, batch by batch, in memory or as one file a batch in a folder.

    When they have grown by half, they are filtered again with the risen bound. So at most about 1.5 times what is above the
    current bound is held: `count` locations a unit (see `TopValues`), each with its 8 neighbours.

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
        self._held = 0
        self._compacted = self.LEAST
        self.peak = 0
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("[0-9]" * 8 + ".npz"):
                batch = int(path.stem)
                self._pieces[batch], self._sizes[batch] = None, path.stat().st_size
            self._held = sum(self._sizes.values())

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._held

    def add(self, batch: int, piece: Piece) -> None:
        """Keep a batch's maps, in place of any kept for it before."""
        self._held += piece.nbytes - self._sizes.get(batch, 0)
        self._sizes[batch] = piece.nbytes
        if self.folder:
            write_atomically(self._path(batch), _packed(piece), durable=False)
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
            piece = _read(self._path(batch), self.shape)
        return piece

    def full(self) -> bool:
        """Is it time to `compact`?"""
        return self.nbytes > self.SLACK * self._compacted

    def compact(self, bound_U: Tensor) -> None:
        """Drop what is not above the bound."""
        bound = bound_U.cpu()
        for batch in list(self._pieces):
            self.add(batch, reduce_again(self.get(batch), self.shape, bound))
        self._compacted = max(self.nbytes, self.LEAST)

    def _path(self, batch: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{batch:08d}.npz"


def _read(path: Path, shape: tuple[int, int]) -> Piece:
    """A piece as `_packed` wrote it, for maps of this shape.

    Raises:
        InputError: it is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            piece = Piece(*(stored[name] for name in Piece._fields))
        maps = len(piece.images)
        whole = piece.units.shape == piece.images.shape == (maps,) and piece.kept.shape == (maps, -(-shape[0] * shape[1] // 8))
        if not whole or piece.values.shape != (_unpacked(piece, shape).sum(),) or piece.values.dtype != np.float32:
            raise ValueError("its parts do not fit together")
    except Exception as error:  # NumPy's readers raise errors of many types
        raise InputError(f"{path}: is damaged ({type(error).__name__}); remove it, and the same command goes on") from None
    return piece


def _packed(piece: Piece) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **piece._asdict())
    return buffer.getvalue()
