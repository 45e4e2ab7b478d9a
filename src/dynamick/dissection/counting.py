"""Exact pixel counts of units against concepts: intersections and areas (docs/definitions.md, "Network Dissection")."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamick.data.concepts import Label
from dynamick.dissection.masks import mask_pixels
from dynamick.dissection.selecting import above, places
from dynamick.errors import InputError

RULES = ("netdissect", "lite")
MOST = 1 << 24
"""The largest number of a label. A table has a place for every number up to the largest one used."""
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


class _Labels(NamedTuple):
    """The labels of B images as columns of the counts, each at most once a pixel; 0 if there is none."""

    planes: Tensor  # int32, shape (L, P): label maps, image after image
    first: Tensor  # int64, shape (B,): the first of an image's maps
    depth: Tensor  # int64, shape (B,): how many it has
    wholes: Tensor  # int64, shape (B, E): labels of the whole image
    pixels: Tensor  # int64, shape (B, W): how many pixels of an image have a label
    present: Tensor  # bool, shape (B, C): whether the image has a label of the category


def _once(columns_DX: Tensor) -> None:
    """Set to 0, in place, what an earlier row holds at the same place."""
    for row in range(1, len(columns_DX)):
        repeated = (columns_DX[:row] == columns_DX[row]).any(0)
        columns_DX[row].masked_fill_(repeated, 0)


class Counts:
    """Counts over a data set, batch by batch. The counts of parts add up to those of the whole.

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
        InputError: no labels, an unknown rule, a label of none of the categories, a number or a category given twice, or a
            number out of range.

    >>> counts = dk.dissection.Counts([dk.data.Label(1, "wing", "part")], ["part"], units=4)
    >>> counts.intersections.shape, counts.labelled
    (torch.Size([4, 1]), 0)
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
        if len(position) < len(categories):
            raise InputError(f"data: a category is given twice in {', '.join(categories)}; give each once")
        seen: set[int] = set()
        for label in labels:
            if not 1 <= label.number <= MOST or label.number in seen:
                why = "twice" if label.number in seen else f"not from 1 to {MOST}"
                raise InputError(f"data: label {label.name} has number {label.number}, {why}; give each a number of its own")
            seen.add(label.number)
            if label.category not in position:
                found = f"{label.number} ({label.name}) is of category {label.category!r}"
                raise InputError(f"data: label {found}; there is {', '.join(position)}")
        # Column 0 is "unlabelled". A number that is not a label has the column -1.
        self._column = torch.full((max(label.number for label in labels) + 1,), -1, dtype=torch.int32, device=self.device)
        self._column[0] = 0
        numbers = torch.tensor([label.number for label in labels], device=self.device)
        self._column[numbers] = torch.arange(1, len(labels) + 1, dtype=torch.int32, device=self.device)
        self._width = len(labels) + 1
        self._category = torch.tensor([position[label.category] for label in labels], device=self.device)
        # Of a column; "unlabelled" is of a category beyond the last.
        self._category_of = torch.cat([torch.tensor([len(position)], device=self.device), self._category])
        self._both = torch.zeros(units, self._width, dtype=torch.int64, device=self.device)
        self.areas = torch.zeros(units, len(position), dtype=torch.int64, device=self.device)
        self.sizes = torch.zeros(len(labels), dtype=torch.int64, device=self.device)
        self.labelled = 0

    @property
    def intersections(self) -> Tensor:
        """|mask & concept|, a view of shape (U, L)."""
        return self._both[:, 1:]

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
        self.sizes += labels.pixels.sum(0)[1:]
        self.labelled += int(labels.present.any(1).sum())
        if excess_Shw.shape[1:] == (1, 1):
            self._count_whole(images_S, units_S, places(above(excess_Shw, 0.0)), labels, size[0] * size[1])
        else:
            self._count(images_S, units_S, excess_Shw, labels, size)

    def _count_whole(self, images_S: Tensor, units_S: Tensor, some: Tensor, labels: "_Labels", pixels: int) -> None:
        """Add up masks of whole images: those of a vector's units."""
        images, units = images_S.index_select(0, some), units_S.index_select(0, some)
        self._both.index_add_(0, units, labels.pixels.index_select(0, images))
        self.areas.index_add_(0, units, pixels * labels.present.index_select(0, images).long())

    def _count(self, images_S: Tensor, units_S: Tensor, excess_Shw: Tensor, labels: "_Labels", size: tuple[int, int]) -> None:
        """Add up masks pixel by pixel. Few pixels are in a mask, so a list of them is short."""
        flat, both = labels.planes.flatten(), self._both.view(-1)
        pixels = size[0] * size[1]
        plane_S, depth_S = labels.first.index_select(0, images_S) * pixels, labels.depth.index_select(0, images_S)
        unit_S = units_S * self._width
        area_S = torch.zeros_like(units_S)
        under_SC = torch.zeros(len(units_S), self.areas.shape[1] + 1, dtype=torch.bool, device=self.device)
        for maps, within in mask_pixels(excess_Shw, size):
            area_S += torch.bincount(maps, minlength=len(units_S))
            place, unit = plane_S.index_select(0, maps) + within, unit_S.index_select(0, maps)
            for depth in range(int(labels.depth.max())):
                deeper = places(depth_S.index_select(0, maps) > depth)
                maps, place, unit = (each.index_select(0, deeper) for each in (maps, place, unit))
                column = flat.index_select(0, place + depth * pixels)
                both.index_add_(0, unit + column, torch.ones_like(unit))
                if self.rule == "lite":
                    under = maps * under_SC.shape[1] + self._category_of.index_select(0, column)
                    under_SC.view(-1).index_fill_(0, under, True)
        wholes_SE = labels.wholes.index_select(0, images_S)
        both.index_add_(0, (wholes_SE + unit_S[:, None]).flatten(), area_S.repeat_interleave(wholes_SE.shape[1]))
        counted_SC = labels.present.index_select(0, images_S)
        if self.rule == "lite":
            counted_SC = under_SC.scatter_(1, self._category_of[wholes_SE], True)[:, :-1]
        self.areas.index_add_(0, units_S, area_S[:, None] * counted_SC)

    def _labels(self, samples: Sequence[tuple[str, Mapping[str, Tensor]]], size: tuple[int, int]) -> "_Labels":
        """A batch's labels as columns of the counts.

        A concept is a set of pixels: if several maps give it to one pixel, it counts there once.
        """
        names, planes, wholes, depth = [], [torch.zeros(0, size[0] * size[1], dtype=torch.int32)], [], []
        for name, maps in samples:
            whole: list[int] = []
            before = len(planes)
            for category, several in maps.items():
                if several.ndim != 3 or several.is_floating_point():
                    found = f"{str(several.dtype).removeprefix('torch.')} of shape {tuple(several.shape)}"
                    raise InputError(f"{name}: the {category} labels are {found}; they must be integers of shape (maps, h, w)")
                if several.shape[-2:] == (1, 1) and size != (1, 1):
                    whole += several.flatten().tolist()
                elif several.shape[-2:] == size:
                    # PyTorch does not join the wider unsigned types with others.
                    planes.append((several.long() if several.dtype in _UNSIGNED else several).flatten(1))
                else:
                    found, right = ("x".join(map(str, each)) for each in (several.shape[-2:], size))
                    raise InputError(f"{name}: the {category} map is {found} pixels; it must be {right} as the others")
            names.append(name)
            wholes.append(whole)
            depth.append(sum(map(len, planes[before:])))
        # At least one whole label, so that no shape is empty. 0 is unlabelled.
        most = max(1, *map(len, wholes))
        wholes_BE = torch.tensor([its + [0] * (most - len(its)) for its in wholes])
        owners = [image for image, count in enumerate(depth) for _ in range(count)]
        planes_LP = self._columns(torch.cat(planes), [names[image] for image in owners])
        return self._without_repetition(planes_LP, owners, depth, self._columns(wholes_BE, names).long())

    def _without_repetition(self, planes_LP: Tensor, owners: list[int], depth: list[int], wholes_BE: Tensor) -> "_Labels":
        """Labels with the pixels of each counted: once where several maps of an image (owners, shape (L,)) give them."""
        B, W = len(wholes_BE), self._width
        owner_L, depth_B = (torch.tensor(numbers, dtype=torch.int64, device=self.device) for numbers in (owners, depth))
        first_B = depth_B.cumsum(0) - depth_B
        _once(wholes_BE.T)
        pixels_LW = self._histograms(planes_LP)
        times_BW = torch.zeros(B, W, dtype=torch.int64, device=self.device)
        times_BW.index_add_(0, owner_L, (pixels_LW > 0).long()).scatter_add_(1, wholes_BE, torch.ones_like(wholes_BE))
        for image in places((times_BW[:, 1:] > 1).any(1)).tolist():
            its = slice(int(first_B[image]), int(first_B[image]) + depth[image])
            for whole in wholes_BE[image]:
                planes_LP[its].masked_fill_(planes_LP[its] == whole, 0)
            _once(planes_LP[its])
            pixels_LW[its] = self._histograms(planes_LP[its])
        pixels_BW = torch.zeros_like(times_BW).index_add_(0, owner_L, pixels_LW)
        pixels_BW.scatter_(1, wholes_BE, planes_LP.shape[1])[:, 0] = 0
        present_BC = torch.zeros(B, self.areas.shape[1] + 1, dtype=torch.bool, device=self.device)
        labelled = places(pixels_BW > 0)
        category = self._category_of.index_select(0, labelled % W)
        present_BC.view(-1).index_fill_(0, labelled // W * present_BC.shape[1] + category, True)
        return _Labels(planes_LP, first_B, depth_B, wholes_BE, pixels_BW, present_BC[:, :-1])

    def _histograms(self, planes_LP: Tensor) -> Tensor:
        """How many pixels of each map have each label, int64, shape (L, W)."""
        number_L = torch.arange(len(planes_LP), device=self.device)[:, None]
        keys = planes_LP + number_L * self._width
        return torch.bincount(keys.flatten(), minlength=len(planes_LP) * self._width).view(-1, self._width)

    def _columns(self, numbers: Tensor, names: Sequence[str]) -> Tensor:
        """The columns of label numbers, int32, one name a row; 0 is unlabelled."""
        if not numbers.numel():
            return numbers.to(self.device)
        inside = numbers.clamp(0, len(self._column) - 1).to(self.device)
        columns = self._column.index_select(0, inside.flatten()).view(numbers.shape)
        known = (columns >= 0) & (inside == numbers.to(self.device))
        if not known.all():
            row, *_ = (~known).nonzero()[0].tolist()
            number = int(numbers[row][~known[row].cpu()][0])
            raise InputError(f"{names[row]}: label {number} is not one of the data set's labels")
        return columns

    def empty(self) -> "Counts":
        """Counts of no image, for the same concepts, units and rule."""
        return Counts(*self._arguments)

    def merge(self, other: "Counts") -> None:
        """Add the counts of another part of the data set."""
        self.intersections.add_(other.intersections.to(self.device))
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
