"""What units see: the images that excite each most, from the dissected data, or else among the explained images."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import Dissection
from dynamick.dissection.gallery import examples
from dynamick.explanation.pixels import enlarge
from dynamick.explanation.reading import Reader, Seen
from dynamick.report.explanation import TopImage

TOP_IMAGES = 4
PICTURED = 128
"""How many units are shown with images of the dissected data: those of the largest weights."""
REGION = 0.5
"""Among the explained images, a unit's region is where its map is above this part of its highest value there."""
_GRID = 28


def from_dissection(reader: Reader, units: Dissection, concepts: ConceptDataset) -> dict[int, list[TopImage]]:
    """The heaviest units' top images, and where the activation is above the unit's threshold."""
    heaviest = reader.head.effective_weight.abs().amax(0).argsort(descending=True)[:PICTURED].tolist()
    arrays: dict[int, NDArray[np.uint8]] = {}
    found = {}
    shown = examples(reader.model, concepts, units, sorted(heaviest), TOP_IMAGES)
    for each in shown:
        found[each.index] = [
            # One array an image, so that the page holds it once for all units that it excites.
            TopImage(arrays.setdefault(id(image), image.permute(1, 2, 0).numpy()), np.asarray(mask))
            for image, mask in zip(each.images, each.masks, strict=True)
        ]
    return found


def among(seen: Seen, pictures: Sequence[NDArray[np.uint8]], units: Sequence[int]) -> dict[int, list[TopImage]]:
    """The explained images that excite each unit most; none for a unit that none of them excites."""
    x_NM = torch.cat([each.x.float().cpu() for each in seen.batches])
    maps = [each.maps for each in seen.batches]
    count = min(TOP_IMAGES, len(x_NM))
    values, places = x_NM.nan_to_num().topk(count, dim=0)
    starts = np.cumsum([0, *(len(each.x) for each in seen.batches)])
    found = {}
    for unit in units:
        row = []
        for value, place in zip(values[:, unit].tolist(), places[:, unit].tolist(), strict=True):
            if value > 0:
                batch = int(np.searchsorted(starts, place, side="right")) - 1
                of = maps[batch]
                region = None if of is None else _region(of[place - int(starts[batch]), unit])
                row.append(TopImage(pictures[place], region, place))
        found[unit] = row
    return found


def _region(map_HW: Tensor) -> NDArray[np.float32]:
    """The map as a part of its highest value, moved so that `REGION` of it is 0.5: what `outline` draws around."""
    large = enlarge(map_HW.float().cpu()[None], (_GRID, _GRID))[0]
    top = float(large.max())
    return (large / top - REGION + 0.5).numpy() if top > 0 else np.zeros((_GRID, _GRID), np.float32)
