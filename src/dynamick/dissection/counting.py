"""Pixel counts of units against concepts: intersections and areas, exact integers (SPEC section 5)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.data.concepts import Label
from dynamick.errors import InputError

RULES = ("netdissect", "lite")


def upsampled_masks(excess_Shw: Tensor, size: tuple[int, int]) -> Tensor:
    """Where maps are above their units' thresholds, at the size of the label maps: float32 zeros and ones, shape (S, H, W).

    Args:
        excess_Shw: activation minus threshold. Bilinear interpolation (align_corners=False) of the difference is
            above 0 where that of the activation is above the threshold; and never where no activation near is, as rounding
            keeps the sign of a sum of numbers that are not positive.
        size: height and width.
    """
    # Infinite activations times a weight of 0 would be NaN.
    finite = excess_Shw.clamp(-1e38, 1e38)
    if not len(finite) or finite.shape[-2:] == (1, 1):
        return finite.gt_(0)[:, :1, :1].expand(-1, *size)
    rows, columns = (_interpolation(*pair).to(finite.device) for pair in zip(finite.shape[-2:], size, strict=True))
    return (rows @ finite @ columns.T).gt_(0)


@lru_cache(maxsize=8)
def _interpolation(old: int, new: int) -> Tensor:
    """Bilinear weights of one dimension (align_corners=False), float32, shape (new, old): two matrix products upsample faster
    than PyTorch's own interpolation on a CPU."""
    source = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    left = source.long().clamp(max=max(old - 2, 0))
    right = (left + 1).clamp(max=old - 1)
    weights = torch.zeros(new, old, dtype=torch.float64)
    share = (source - left)[:, None]
    weights.scatter_add_(1, left[:, None], 1 - share).scatter_add_(1, right[:, None], share)
    return weights.float()


class Counts:
    """Counts over a data set, image by image: those of parts of a set add up to those of the whole.

    Attributes:
        intersections: int64, shape (U, L): |mask & concept|.
        areas: int64, shape (U, C): |mask| over the images that the rule counts for the category.
        sizes: int64, shape (L,): |concept|.
        labelled: how many images have a label.

    Args:
        labels: the concepts, numbers from 1 up.
        categories: names of categories.
        units: how many units.
        rule: `netdissect` counts an image's whole mask for a category when the image has any label of that category;
            `lite` when some label of that category lies under the mask.

    Raises:
        InputError: no labels, an unknown rule, or a label of none of the categories.
    """

    def __init__(
        self,
        labels: Sequence[Label],
        categories: Sequence[str],
        units: int,
        rule: str = "netdissect",
        device: torch.device | str = "cpu",
    ) -> None:
        if rule not in RULES:
            raise InputError(f"rule: {rule!r} is unknown; give {' or '.join(RULES)}")
        if not labels:
            raise InputError(
                "data: the data set has no labels, so there is nothing to compare units with; give one with concepts"
            )
        self.rule, self.device = rule, torch.device(device)
        self._arguments = (labels, categories, units, rule, device)
        places = {name: place for place, name in enumerate(categories)}
        for label in labels:
            if label.category not in places:
                raise InputError(
                    f"data: label {label.number} ({label.name}) is of category {label.category!r}; there is {', '.join(places)}"
                )
        # Column 0 stands for "unlabelled"; a number that is no label has the column -1.
        self._column = torch.full((max(label.number for label in labels) + 1,), -1, device=self.device)
        self._column[0] = 0
        self._column[[label.number for label in labels]] = torch.arange(1, len(labels) + 1, device=self.device)
        self._category = torch.tensor([places[label.category] for label in labels], device=self.device)
        self._in_category = F.one_hot(self._category, len(places)).float()
        self.intersections = torch.zeros(units, len(labels), dtype=torch.int64, device=self.device)
        self.areas = torch.zeros(units, len(places), dtype=torch.int64, device=self.device)
        self.sizes = torch.zeros(len(labels), dtype=torch.int64, device=self.device)
        self.labelled = 0

    def concepts(self, maps: Mapping[str, Tensor], size: tuple[int, int], name: str = "image") -> tuple[Tensor, Tensor]:
        """An image's concepts: their places among the labels (int64, shape (l,)) and pixels (float32 0 or 1, shape (l, H * W)).

        A concept is a set of pixels: one that several maps give to a pixel counts there once.

        Raises:
            InputError: a label that the data set does not list, or a map of another size.
        """
        whole, planes = [], []
        for category, several in maps.items():
            if several.shape[-2:] == (1, 1) and size != (1, 1):
                whole.append(several.flatten())
            elif several.shape[-2:] == size:
                planes.append(several.flatten(1))
            else:
                found = f"{several.shape[-2]}x{several.shape[-1]}"
                raise InputError(f"{name}: the {category} map is {found} pixels; it must be {size[0]}x{size[1]} as the others")
        numbers = torch.cat([*whole, *(plane.flatten() for plane in planes)] or [torch.zeros(1)]).to(self.device, torch.int64)
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(self._column):
            numbers_out = numbers[(numbers < 0) | (numbers >= len(self._column))]
            raise InputError(f"{name}: label {int(numbers_out[0])} is not one of the data set's labels")
        columns = self._column[numbers]
        present = torch.bincount(columns + 1, minlength=len(self.sizes) + 2) > 0
        if present[0]:
            raise InputError(f"{name}: label {int(numbers[columns < 0][0])} is not one of the data set's labels")
        places = present[2:].nonzero()[:, 0]
        row = present[1:].cumsum(0) - int(present[1])
        row[0] = 0
        wholes = sum(len(each) for each in whole)
        pixels = torch.zeros(len(places) + 1, size[0] * size[1], device=self.device)
        if planes:
            flat = row[columns[wholes:]].view(-1, pixels.shape[1])
            pixels.scatter_(0, flat, 1.0)
        pixels[row[columns[:wholes]]] = 1.0
        return places, pixels[1:]

    def update(
        self, units_S: Tensor, masks_SHW: Tensor, maps: Mapping[str, Tensor], size: tuple[int, int], name: str = "image"
    ) -> None:
        """Count one image.

        Args:
            units_S: int64, shape (S,): the units with a mask, each once.
            masks_SHW: float32 zeros and ones at the label maps' size, see `upsampled_masks`; S may be 0.
            maps: category -> label maps, see `dynamick.data.concepts.Sample`.
            size: the label maps' height and width, also where the image has only labels of the whole image.
        """
        places, pixels_lP = self.concepts(maps, size, name)
        if not len(places):
            return
        self.labelled += 1
        # Sums of zeros and ones in float32 are exact below 2^24 pixels.
        exact = torch.float32 if pixels_lP.shape[1] < 2**24 else torch.float64
        pixels_lP = pixels_lP.to(exact)
        self.sizes[places] += pixels_lP.sum(1).long()
        if not len(units_S):
            return
        masks_SP = masks_SHW.flatten(1).to(exact)
        both_Sl = masks_SP @ pixels_lP.T
        area_S = masks_SP.sum(1)
        categories_lC = self._in_category[places]
        if self.rule == "lite":
            counted_SC = ((both_Sl > 0).float() @ categories_lC > 0).to(exact)
        else:
            counted_SC = categories_lC.amax(0).to(exact).expand(len(units_S), -1)
        self.intersections[units_S[:, None], places] += both_Sl.long()
        self.areas[units_S] += (area_S[:, None] * counted_SC).long()

    def empty(self) -> "Counts":
        """Counts of no image, for the same concepts, units and rule."""
        return Counts(*self._arguments)

    def merge(self, other: "Counts") -> None:
        """Add the counts of another part of the data set."""
        self.intersections += other.intersections.to(self.device)
        self.areas += other.areas.to(self.device)
        self.sizes += other.sizes.to(self.device)
        self.labelled += other.labelled

    def compute(self) -> Tensor:
        """IoU of every unit with every concept, float64, shape (U, L); 0 where neither has a pixel."""
        inter = self.intersections.double()
        union = self.areas[:, self._category].double() + self.sizes.double() - inter
        return torch.where(union > 0, inter / union.clamp(min=1), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        state = {name: getattr(self, name).cpu().clone() for name in ("intersections", "areas", "sizes")}
        return {**state, "labelled": self.labelled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name in ("intersections", "areas", "sizes"):
            getattr(self, name).copy_(state[name])
        self.labelled = state["labelled"]
