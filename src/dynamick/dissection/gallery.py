"""The top images of units with the regions where they are active: Fig. 6, below the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from dynamick.data.concepts import ConceptDataset, image_of
from dynamick.dissection.activations import capture
from dynamick.dissection.masks import upsampled_masks
from dynamick.dissection.result import Dissection
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing

DIMMED = 0.25
"""How bright an image is outside the unit's region."""
NARROWEST = 200
"""The least width of a unit's caption in pixels, however few pictures are below it."""
CAPTION, GAP, MARGIN = 18, 2, 12
"""Pixels: a caption's height, between pictures, and around the page and between units."""


@dataclass(frozen=True)
class Example:
    """A unit's index, its label and score, its top images (uint8 (3, H, W)) and where it is active in them (bool (H, W)).

    `peaks`: its highest activations there. They are the dissection's `top_values` if these are the images that it saw.
    """

    index: int
    label: str
    score: float
    images: list[Tensor]
    masks: list[Tensor]
    peaks: Sequence[float] = ()

    @property
    def unit(self) -> int:
        """The unit's number, which counts from 1."""
        return self.index + 1


def examples(
    model: nn.Module,
    dataset: ConceptDataset,
    dissection: Dissection,
    indices: Sequence[int],
    count: int = 5,
    preprocessing: Preprocessing | None = None,
) -> list[Example]:
    """The images of highest activation of some units, and where the activation is above the unit's threshold.

    Args:
        indices: the units', which count from 0.
        count: images a unit, at most as many as the dissection noted.
        preprocessing: by default `model.preprocessing`.

    Raises:
        InputError: the dissection notes no images (it was read from a tally), there is no such unit, or no preprocessing.
    """
    if not dissection.top_images.size:
        raise InputError("gallery: the dissection notes no top images; give one that dissect made, or its JSON")
    outside = [index for index in indices if not 0 <= index < len(dissection.rows)]
    if outside:
        raise InputError(f"gallery: there is no unit of index {outside[0]}; give 0 to {len(dissection.rows) - 1}")
    prepare = preprocessing or getattr(model, "preprocessing", None)
    if prepare is None:
        raise InputError("gallery: the model does not name its preprocessing; give it")
    wanted: dict[int, list[int]] = {}
    for unit in indices:
        for place in dissection.top_images[unit, :count].tolist():
            wanted.setdefault(place, []).append(unit)
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    found: dict[tuple[int, int], tuple[Tensor, Tensor, float]] = {}
    thresholds = torch.from_numpy(dissection.thresholds)
    with torch.no_grad(), capture(model, dissection.layer) as taken:
        for place, its_units in wanted.items():
            image = image_of(dataset, place)[1]
            model(prepare(image[None].to(like.device)).to(like.dtype))
            maps = taken.take()[0, its_units].cpu()
            masks = upsampled_masks(maps - thresholds[its_units][:, None, None], (image.shape[1], image.shape[2]))
            each = zip(its_units, masks, maps.amax((1, 2)).tolist(), strict=True)
            found.update({(unit, place): (image, mask, peak) for unit, mask, peak in each})
    made = []
    for unit in indices:
        row, top = dissection.rows[unit], [found[unit, place] for place in dissection.top_images[unit, :count].tolist()]
        shown = [image for image, _, _ in top], [mask for _, mask, _ in top], [peak for _, _, peak in top]
        made.append(Example(unit, row.label, row.score, *shown))
    return made


def overlay(image: Tensor, mask: Tensor) -> Tensor:
    """The image (uint8 (3, H, W)) dimmed outside the mask (bool (H, W))."""
    return torch.where(mask, image, (image * DIMMED).to(torch.uint8))


def sheet(shown: Sequence[Example], side: int = 96, across: int = 3) -> Image.Image:
    """One picture, `across` units wide: a unit's number, label and score above its top images, `side` pixels each."""
    pictures = max((len(example.images) for example in shown), default=1)
    width, height = max(NARROWEST, pictures * (side + GAP) - GAP) + MARGIN, CAPTION + side + MARGIN
    across = max(1, min(across, len(shown)))
    rows = max(1, -(-len(shown) // across))
    page = Image.new("RGB", (across * width + MARGIN, rows * height + MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for place, example in enumerate(shown):
        top, left = MARGIN + place // across * height, MARGIN + place % across * width
        draw.text((left, top), _caption(example, font, width - MARGIN), fill="black", font=font)
        for x, (image, mask) in enumerate(zip(example.images, example.masks, strict=True)):
            picture = Image.fromarray(overlay(image, mask).permute(1, 2, 0).contiguous().numpy()).resize((side, side))
            page.paste(picture, (left + x * (side + GAP), top + CAPTION))
    return page


def _caption(example: Example, font: Any, width: int) -> str:
    """A unit's number, label and score. A label that is too long is cut."""
    for length in range(len(example.label), -1, -1):
        cut = example.label[:length] + ("..." if length < len(example.label) else "")
        caption = f"unit {example.unit}: {cut}, IoU {example.score:.3f}"
        if font.getlength(caption) <= width:
            break
    return caption
