"""Where activations, upsampled to the label maps, are above their thresholds (docs/definitions.md, "Network Dissection")."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dynamick.dissection.selecting import above, places

AT_ONCE = 1 << 20
"""How many pixels are upsampled at once; at least those of one cell."""
HIGHEST, LOWEST = 1e30, -3e38
"""In place of infinite differences: sums have the right sign, and no product is NaN."""


class Pixels(NamedTuple):
    """Pixels of masks, each once: of which map, and its place in the mask, row after row; int64, shape (N,)."""

    maps: Tensor
    places: Tensor


class _Cells(NamedTuple):
    """One dimension of the cells between neighbouring locations: cell c, from 0 to the number of locations, lies between the
    locations c - 1 and c, or beyond the outermost. It holds n pixels or fewer; weights are 0 where it holds no pixel."""

    first: Tensor  # int64, shape (cells,): its first pixel
    before: Tensor  # float32, shape (n, cells): weight of the location c - 1 in each pixel
    after: Tensor  # float32, shape (n, cells): weight of the location c


@lru_cache(maxsize=16)
def _cells(locations: int, pixels: int, device: torch.device) -> _Cells:
    """Bilinear interpolation (align_corners=False) of so many locations to so many pixels."""
    source = (torch.arange(pixels, dtype=torch.float64) + 0.5) * locations / pixels - 0.5
    cell = source.floor().long() + 1
    counts = torch.bincount(cell, minlength=locations + 1)
    first = counts.cumsum(0) - counts
    # Outside the outermost location its value is used.
    share = torch.where((cell == 0) | (cell == locations), 0, source - (cell - 1))
    before, after = torch.zeros(2, int(counts.max()), locations + 1, dtype=torch.float64)
    within = torch.arange(pixels) - first[cell]
    before[within, cell], after[within, cell] = 1 - share, share
    return _Cells(first.to(device), before.float().to(device), after.float().to(device))


def mask_pixels(excess_Shw: Tensor, size: tuple[int, int]) -> Iterator[Pixels]:
    """The pixels at which maps, upsampled bilinearly to the size of the label maps, are above their thresholds.

    Only cells with a corner above the threshold are upsampled: interpolation is never above its four corners, and rounding
    keeps the sign of a sum of numbers that are not positive. The interpolation of activation minus threshold is above 0
    where the interpolation of the activation is above the threshold.

    Args:
        excess_Shw: float32, shape (S, h, w): activation minus threshold; locations without a neighbour above 0 do not matter.
        size: height and width.
    """
    S, h, w = excess_Shw.shape
    device = excess_Shw.device
    rows, columns = _cells(h, size[0], device), _cells(w, size[1], device)
    flat = excess_Shw.flatten()
    hot = places(above(flat, 0.0))
    upper_left = hot // (h * w) * ((h + 1) * (w + 1)) + hot % (h * w) // w * (w + 1) + hot % w
    beside = torch.zeros(S * (h + 1) * (w + 1), dtype=torch.bool, device=device)
    for step in (0, 1, w + 1, w + 2):
        beside.index_fill_(0, upper_left + step, True)
    cells = places(beside)
    height, width = len(rows.before), len(columns.before)
    offsets = (torch.arange(height, device=device)[:, None] * size[1] + torch.arange(width, device=device)).flatten()
    for some in cells.split(max(1, AT_ONCE // (height * width))):
        maps, within = some // ((h + 1) * (w + 1)), some % ((h + 1) * (w + 1))
        row, column = within // (w + 1), within % (w + 1)
        corners = []
        for down in (-1, 0):
            for across in (-1, 0):
                y, x = (row + down).clamp(0, h - 1), (column + across).clamp(0, w - 1)
                corners.append(_finite(flat.index_select(0, (maps * h + y) * w + x)))
        # Cells are the last dimension, because the longest one is the fastest.
        left, right = columns.before.index_select(1, column), columns.after.index_select(1, column)
        upper, lower = corners[0] * left + corners[1] * right, corners[2] * left + corners[3] * right
        above_hwN = above(
            upper * rows.before.index_select(1, row)[:, None] + lower * rows.after.index_select(1, row)[:, None], 0.0
        )
        found = places(above_hwN)
        which, pixel = found % len(some), found // len(some)
        first = rows.first.index_select(0, row) * size[1] + columns.first.index_select(0, column)
        yield Pixels(maps.index_select(0, which), first.index_select(0, which) + offsets.index_select(0, pixel))


def _finite(excess_N: Tensor) -> Tensor:
    return excess_N.nan_to_num(nan=LOWEST, posinf=HIGHEST, neginf=LOWEST).clamp(max=HIGHEST)


def upsampled_masks(excess_Shw: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks themselves, bool, shape (S, H, W); see `mask_pixels`."""
    masks = torch.zeros(len(excess_Shw), size[0] * size[1], dtype=torch.bool, device=excess_Shw.device)
    for pixels in mask_pixels(excess_Shw, size):
        masks[pixels.maps, pixels.places] = True
    return masks.view(-1, *size)
