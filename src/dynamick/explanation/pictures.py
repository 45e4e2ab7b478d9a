"""Pictures of explanations: heatmaps over the image as arrays and PNG bytes, and the figure of an explanation (Fig. 7)."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from dynamick.errors import InputError
from dynamick.explanation.explained import Explanation
from dynamick.explanation.pixels import enlarge

NAME = 24
"""How many characters of a name fit above a picture."""
AGAINST = (60, 140, 255)
"""The colour of evidence against the class, as on the page."""
TONE = 0.75
"""A value's share of the largest, to this power, is drawn, as on the page: weak heat is visible and still looks weaker."""
Words = Callable[[Explanation, int], list[str]]
"""The lines about a unit of an explanation, by its position there."""


def heatmap(
    image: Tensor, map_HW: Tensor, opacity: float = 0.6, peak: float | None = None, against: bool = False
) -> np.ndarray:
    """One contribution's map laid over its image.

    Positive values colour the image from dark violet to yellow (matplotlib's `inferno`, readable without colour vision). The
    larger a value, the more opaque it is, so the image itself is seen where nothing contributes. Both grow by the power
    `TONE` of the value. Negative values stay clear.

    Args:
        image: uint8 (3, H, W), or floating point in 0..1.
        map_HW: (h, w), of any size.
        opacity: of the largest value, 0..1.
        peak: the value that gets the full colour; None takes this map's largest. Give one for maps to be compared.
        against: negative values, which speak against the class, are laid over in blue, and count for the peak by their size.

    Returns:
        uint8 array (H, W, 3).

    Raises:
        InputError: the image is not (3, H, W), or the map not (h, w).

    >>> dk.explanation.heatmap(torch.zeros(3, 32, 32), torch.rand(4, 4)).shape
    (32, 32, 3)
    """
    if image.ndim != 3 or image.shape[0] != 3 or map_HW.ndim != 2:
        raise InputError(f"heatmap: image {tuple(image.shape)}, map {tuple(map_HW.shape)}; give (3, H, W) and (h, w)")
    pixels = image.float() if image.is_floating_point() else image.float() / 255
    signed = enlarge(map_HW, (image.shape[1], image.shape[2]))
    heat = signed.abs() if against else signed.clamp(min=0)
    top = float(heat.max()) if peak is None else peak
    heat = (heat / top).clamp(max=1) ** TONE if top > 0 else torch.zeros_like(heat)
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](heat.numpy())[..., :3]).float()
    colours[signed < 0] = torch.tensor(AGAINST) / 255
    alpha = (opacity * heat)[..., None]
    mixed = pixels.permute(1, 2, 0) * (1 - alpha) + colours * alpha
    return (mixed.clamp(0, 1) * 255).round().byte().numpy()


def draw(
    explanations: Sequence[Explanation],
    images: Tensor,
    units: int = 5,
    titles: Sequence[str] | None = None,
    captions: Words | None = None,
) -> Figure:
    """The paper's Fig. 7 of some explanations: a row each with the image, and the units of largest |W x| on it.

    Above each unit stand its product with the share of Y - b, its number (from 1, as in tally.csv) and its concept. Yellow
    speaks for the class, blue against it, on one scale a row. If the evidence has no split over the image, a row shows bars.

    Args:
        explanations: at least one.
        images: uint8 (B, 3, H, W) or floating point in 0..1, which the explanations' `image` counts.
        units: how many of each are shown at most.
        titles: above each explanation's image; by default the class, and how the logit is a sum.
        captions: above a unit; by default the product and so on.

    Returns:
        A matplotlib figure; `.savefig(path)` writes it.

    Raises:
        InputError: there is no explanation, or images are missing.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> dk.explanation.draw(dk.explain(model, scenes.images), scenes.images, units=3).savefig("why.png")
    """
    if not explanations or max(each.image for each in explanations) >= len(images):
        raise InputError(f"draw: {len(explanations)} explanations of {len(images)} images; give at least one, and their images")
    size = (1.75 * (units + 1), 2.3 * len(explanations))
    titles, captions = titles or [_sum(each) for each in explanations], captions or _captions
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.06))
    grid = figure.add_gridspec(len(explanations), units + 1)
    for row, each in enumerate(explanations):
        image = images[each.image]
        _titled(figure.add_subplot(grid[row, 0]), image.permute(1, 2, 0).numpy(), titles[row])
        if each.maps is None:
            _bars(figure.add_subplot(grid[row, 1:]), each, units, captions)
            continue
        places = each.largest(units)
        # One scale a row: a unit of little weight must look like one.
        peak = max((float(each.maps[place].abs().max()) for place in places), default=0.0)
        for column, place in enumerate(places, start=1):
            laid_over = heatmap(_dimmed(image), each.maps[place], peak=peak, against=True)
            _titled(figure.add_subplot(grid[row, column]), laid_over, "\n".join(captions(each, place)))
    return figure


def _dimmed(image: Tensor) -> Tensor:
    """The image in dark grey, floating point: the colours of the heat are clear on it."""
    pixels = image if image.is_floating_point() else image.float() / 255
    return (0.7 * pixels.mean(dim=0, keepdim=True)).expand(3, -1, -1)


def _titled(axes: Axes, pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, parse_math=False)


def _sum(explanation: Explanation) -> str:
    evidence = explanation.logit - explanation.bias
    sign = "\N{MINUS SIGN}" if explanation.bias < 0 else "+"
    added = f"{_number(evidence)} {sign} {abs(explanation.bias):.2f} (bias)"
    return f"{_fitted(explanation.class_name)}\nlogit {_number(explanation.logit)}\n= {added}"


def _fitted(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def _number(value: float, form: str = ".2f") -> str:
    """A number with a proper minus sign."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _captions(explanation: Explanation, place: int) -> list[str]:
    """A unit's product and share, its number, and its concept where it has one."""
    share, concept = explanation.shares["share_of_routed"][place], explanation.concepts[place]
    of = "" if share is None else f" ({_number(share, '.0%')} of Y \N{MINUS SIGN} b)"
    return [
        _number(explanation.products[place], "+.2f") + of,
        f"unit {explanation.units[place]}",
        "" if concept is None else _fitted(concept.label),
    ]


def _bars(axes: Axes, explanation: Explanation, units: int, captions: Words) -> None:
    places = explanation.largest(units)
    values = [explanation.products[place] for place in places]
    labels = [", ".join(part for part in captions(explanation, place)[::-1] if part) for place in places]
    colours = ["#0072b2" if value >= 0 else "#d55e00" for value in values]
    axes.barh(range(len(places)), values, color=colours)
    axes.set_yticks(range(len(places)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("evidence W x", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
