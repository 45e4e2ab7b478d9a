"""Pixel counts of units against concepts: intersections and areas, exact integers (SPEC section 5)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamick.data.concepts import Label
from dynamick.dissection.selecting import above, places
from dynamick.errors import InputError

RULES = ("netdissect", "lite")
MASK_PIXELS = 1 << 20
"""So many pixels of masks are made at once, or those of one map."""


def upsampled_masks(excess_Shw: Tensor, size: tuple[int, int]) -> Tensor:
    """Where maps are above their units' thresholds, at the size of the label maps: bool, shape (S, H, W).

    Args:
        excess_Shw: activation minus threshold. Bilinear interpolation (align_corners=False) of the difference is
            above 0 where that of the activation is above the threshold; and never where no activation near is, as rounding
            keeps the sign of a sum of numbers that are not positive.
        size: height and width.
    """
    # Infinite activations times a weight of 0 would be NaN.
    finite = excess_Shw.clamp(-1e38, 1e38)
    if not len(finite) or finite.shape[-2:] == (1, 1):
        return (finite > 0)[:, :1, :1].expand(-1, *size)
    rows, columns = (_interpolation(*pair).to(finite.device) for pair in zip(finite.shape[-2:], size, strict=True))
    return above(rows @ (finite @ columns.T), torch.zeros((), device=finite.device))


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


class _Labels(NamedTuple):
    """The labels of B images as columns of `Counts`, each at most once a pixel; 0 where there is none."""

    columns: Tensor  # int64, shape (B, P, D): of each of D label maps at each of P pixels
    wholes: Tensor  # int64, shape (B, E): of labels of the whole image
    present: Tensor  # bool, shape (B, C): whether the image has a label of the category


def _once(columns_DX: Tensor) -> None:
    """Set to 0, in place, what an earlier row holds at the same place."""
    for row in range(1, len(columns_DX)):
        repeated = (columns_DX[:row] == columns_DX[row]).any(0)
        columns_DX[row].masked_fill_(repeated, 0)


class Counts:
    """Counts over a data set, batch by batch: those of parts of a set add up to those of the whole.

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
        position = {name: place for place, name in enumerate(categories)}
        for label in labels:
            if label.category not in position:
                found = f"{label.number} ({label.name}) is of category {label.category!r}"
                raise InputError(f"data: label {found}; there is {', '.join(position)}")
        # Column 0 stands for "unlabelled"; a number that is no label has the column -1.
        self._column = torch.full((max(label.number for label in labels) + 1,), -1, device=self.device)
        self._column[0] = 0
        self._column[[label.number for label in labels]] = torch.arange(1, len(labels) + 1, device=self.device)
        self._width = len(labels) + 1
        self._category = torch.tensor([position[label.category] for label in labels], device=self.device)
        # Of a column; "unlabelled" is of a category beyond the last.
        self._category_of = torch.cat([torch.tensor([len(position)], device=self.device), self._category])
        self.intersections = torch.zeros(units, len(labels), dtype=torch.int64, device=self.device)
        self.areas = torch.zeros(units, len(position), dtype=torch.int64, device=self.device)
        self.sizes = torch.zeros(len(labels), dtype=torch.int64, device=self.device)
        self.labelled = 0

    def update(
        self,
        images_S: Tensor,
        units_S: Tensor,
        excess_Shw: Tensor,
        samples: Sequence[tuple[str, Mapping[str, Tensor]]],
        size: tuple[int, int],
    ) -> None:
        """Count a batch of images.

        Args:
            images_S, units_S: int64, shape (S,): of which image of `samples` and which unit each map is.
            excess_Shw: float32, shape (S, h, w): activation minus the unit's threshold; S may be 0.
            samples: each image's name, and its label maps by category, see `dynamick.data.concepts.Sample`.
            size: the label maps' height and width, also where an image has only labels of the whole image.

        Raises:
            InputError: a label that the data set does not list, or a map of another size.
        """
        labels = self._labels(samples, size)
        pixels = size[0] * size[1]
        every = torch.bincount(labels.columns.flatten(), minlength=self._width)
        every += pixels * torch.bincount(labels.wholes.flatten(), minlength=self._width)
        self.sizes += every[1:]
        self.labelled += int(labels.present.any(1).sum())
        step = max(1, MASK_PIXELS // pixels)
        for first in range(0, len(units_S), step):
            some = slice(first, first + step)
            masks_SP = upsampled_masks(excess_Shw[some], size).flatten(1)
            self._count(images_S[some], units_S[some], masks_SP, labels)

    def _count(self, images_S: Tensor, units_S: Tensor, masks_SP: Tensor, labels: "_Labels") -> None:
        """Add up masks, one hit a pixel of a mask: few pixels are in a mask, so that a list of them is short."""
        places_N = places(masks_SP)
        hits_N, pixels_N = places_N // masks_SP.shape[1], places_N % masks_SP.shape[1]
        area_S = torch.bincount(hits_N, minlength=len(units_S))
        columns_ND = labels.columns[images_S[hits_N], pixels_N]
        wholes_SE = labels.wholes[images_S]
        keys_ND = columns_ND + (units_S * self._width)[hits_N][:, None]
        both = torch.bincount(keys_ND.flatten(), minlength=len(self.intersections) * self._width)
        keys_SE = wholes_SE + (units_S * self._width)[:, None]
        both.index_add_(0, keys_SE.flatten(), area_S.repeat_interleave(wholes_SE.shape[1]))
        self.intersections += both.view(-1, self._width)[:, 1:]
        counted_SC = labels.present[images_S]
        if self.rule == "lite":
            under_SC = torch.zeros(len(units_S), self.areas.shape[1] + 1, dtype=torch.bool, device=self.device)
            under_SC[hits_N[:, None].expand_as(columns_ND), self._category_of[columns_ND]] = True
            under_SC.scatter_(1, self._category_of[wholes_SE], True)
            counted_SC = under_SC[:, :-1]
        self.areas.index_add_(0, units_S, area_S[:, None] * counted_SC)

    def _labels(self, samples: Sequence[tuple[str, Mapping[str, Tensor]]], size: tuple[int, int]) -> "_Labels":
        """A batch's labels as columns of the counts.

        A concept is a set of pixels: one that several maps give to a pixel counts there once.
        """
        planes: list[list[Tensor]] = []
        wholes: list[list[int]] = []
        for name, maps in samples:
            planes.append([])
            wholes.append([])
            for category, several in maps.items():
                if several.shape[-2:] == (1, 1) and size != (1, 1):
                    wholes[-1] += several.flatten().tolist()
                elif several.shape[-2:] == size:
                    planes[-1] += several.flatten(1)
                else:
                    found, right = ("x".join(map(str, each)) for each in (several.shape[-2:], size))
                    raise InputError(f"{name}: the {category} map is {found} pixels; it must be {right} as the others")
        # One plane and one whole label at least, so that no shape is empty; 0 is unlabelled.
        depth = max(1, *map(len, planes))
        numbers_BDP = torch.zeros(len(samples), depth, size[0] * size[1], dtype=torch.int32)
        for numbers_DP, its in zip(numbers_BDP, planes, strict=True):
            for plane, number in zip(its, numbers_DP, strict=False):
                number.copy_(plane)
        most = max(1, *map(len, wholes))
        wholes_BE = torch.tensor([its + [0] * (most - len(its)) for its in wholes])
        names = [name for name, _ in samples]
        columns_BDP = self._columns(numbers_BDP.to(self.device, torch.int64), names)
        wholes_BE = self._columns(wholes_BE.to(self.device), names)
        _once(wholes_BE.T)
        for whole_B in wholes_BE.T:
            columns_BDP.masked_fill_(columns_BDP == whole_B[:, None, None], 0)
        _once(columns_BDP.transpose(0, 1))
        present_BC = torch.zeros(len(samples), self.areas.shape[1] + 1, dtype=torch.bool, device=self.device)
        for columns in (columns_BDP.flatten(1), wholes_BE):
            present_BC.scatter_(1, self._category_of[columns], True)
        return _Labels(columns_BDP.transpose(1, 2).contiguous(), wholes_BE, present_BC[:, :-1])

    def _columns(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """The columns of label numbers, of as many images as names; 0 is unlabelled."""
        known = (numbers >= 0) & (numbers < len(self._column))
        columns = self._column[numbers.where(known, 0)]
        known &= columns >= 0
        if not known.all():
            image, *_ = (~known).nonzero()[0].tolist()
            number = int(numbers[image][~known[image]][0])
            raise InputError(f"{names[image]}: label {number} is not one of the data set's labels")
        return columns

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
