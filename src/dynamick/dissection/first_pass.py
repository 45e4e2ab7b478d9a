"""What the first pass over the images keeps: the largest values, the maps that can still count, the top images."""

from typing import Any

import torch
from torch import Tensor

from dynamick.dissection.selecting import above, places
from dynamick.dissection.survivors import Survivors, reduce
from dynamick.dissection.thresholds import TopValues


class FirstPass:
    """Takes in the activations of U units batch by batch.

    Args:
        values: the largest values, which give the thresholds.
        survivors: keeps the maps that can still count; None if a second pass will make them again.
        top: how many images of highest activation are noted for a unit.
        images: how many images there are.

    Attributes:
        top_values, top_images: shape (top, U), the highest first; among equals the first image.
        nan_counts: int64, shape (U,).
        next: how many batches have been taken in.
    """

    def __init__(self, values: TopValues, survivors: Survivors | None, top: int, images: int) -> None:
        device = values.bound.device
        self.values, self.survivors, self.top, self.images = values, survivors, top, images
        self.top_values = torch.full((top, values.units), -torch.inf, dtype=torch.float32, device=device)
        # Places without an image yet rank after every image.
        self.top_images = torch.full((top, values.units), images, device=device)
        self.nan_counts = torch.zeros(values.units, dtype=torch.int64, device=device)
        self.next = 0
        self.maps = 0
        self.kept_maps = 0

    def observe(self, batch: int, first_image: int, maps_BUhw: Tensor) -> None:
        """Take in the activations of a batch of images, float32, shape (B, U, h, w)."""
        maps_BUhw, highest_BU, nan_counts = rank_nan_lowest(maps_BUhw)
        self.nan_counts += nan_counts
        numbers = torch.arange(first_image, first_image + len(maps_BUhw), device=maps_BUhw.device)
        self.note(highest_BU, numbers[:, None].expand_as(highest_BU))
        above_BUhw, before = self._above(maps_BUhw), self.values.bound
        hits = places(above_BUhw)
        _, U, h, w = maps_BUhw.shape
        self.values.add(maps_BUhw.flatten().index_select(0, hits), hits // (h * w) % U)
        self.maps += highest_BU.numel()
        if self.survivors is not None:
            if self.values.bound is not before:
                above_BUhw = self._above(maps_BUhw)
            piece = reduce(maps_BUhw, above_BUhw, above(highest_BU, self.values.bound))
            self.kept_maps += len(piece.units)
            self.survivors.add(batch, piece)
            if self.survivors.full():
                self.survivors.compact(self.values.tighten())
        self.next += 1

    def _above(self, maps_BUhw: Tensor) -> Tensor:
        """Where maps are above their units' bounds. One long row of bounds is the fastest to compare."""
        bounds = self.values.bound.repeat_interleave(maps_BUhw.shape[2] * maps_BUhw.shape[3])
        return above(maps_BUhw.flatten(1), bounds).view(maps_BUhw.shape)

    def note(self, values_NU: Tensor, images_NU: Tensor) -> None:
        """Take in the highest activation of every unit in some images, and which images those are, shape (N, U)."""
        # Most units have seen higher values before. Of equals, an earlier image may come later, from another process.
        some = places(values_NU.amax(0) >= self.top_values[-1])
        values = torch.cat([self.top_values[:, some], values_NU[:, some]])
        # By image first: the stable sort by value then keeps equals in that order.
        images, order = torch.cat([self.top_images[:, some], images_NU[:, some]]).sort(dim=0, stable=True)
        values, best = values.gather(0, order).sort(dim=0, descending=True, stable=True)
        self.top_values[:, some], self.top_images[:, some] = values[: self.top], images.gather(0, best)[: self.top]

    def merge(self, other: "FirstPass") -> None:
        """Take in another part of the images; its surviving maps stay there."""
        device = self.nan_counts.device
        self.values.merge(other.values)
        self.nan_counts += other.nan_counts.to(device)
        self.note(other.top_values.to(device), other.top_images.to(device))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on, beside the surviving maps."""
        tensors = {name: getattr(self, name).cpu().clone() for name in ("top_values", "top_images", "nan_counts")}
        numbers = {name: getattr(self, name) for name in ("next", "maps", "kept_maps")}
        return {"values": self.values.state_dict(), **tensors, **numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.values.load_state_dict(state["values"])
        for name in ("top_values", "top_images", "nan_counts"):
            setattr(self, name, state[name].to(self.nan_counts.device))
        for name in ("next", "maps", "kept_maps"):
            setattr(self, name, state[name])


def rank_nan_lowest(maps_BUhw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps with -inf for NaN, the highest value of each (B, U), and how many NaN each unit had (U,)."""
    highest_BU = maps_BUhw.amax((2, 3))
    if not highest_BU.isnan().any():
        return maps_BUhw, highest_BU, torch.zeros(maps_BUhw.shape[1], dtype=torch.int64, device=maps_BUhw.device)
    nan = maps_BUhw.isnan()
    maps_BUhw = maps_BUhw.masked_fill(nan, -torch.inf)
    return maps_BUhw, maps_BUhw.amax((2, 3)), nan.sum((0, 2, 3))
