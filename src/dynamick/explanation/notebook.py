"""A decision drawn for a notebook, as HTML and in matplotlib: the sentence, and each concept's evidence on the image."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamick.errors import InputError
from dynamick.explanation.explained import Explanation
from dynamick.explanation.pictures import heatmap
from dynamick.explanation.pixels import png
from dynamick.explanation.sentence import REST, Said, evidence, spoken
from dynamick.report import decisions as parts

SIDE = 128
"""Pictures are drawn so large, in pixels: those of small networks are enlarged, those of large ones reduced."""
FOR, AGAINST = "#3b82c4", "#d9662b"
"""Colours of bars, for and against a class; both are seen on white and on black."""
GREY = 0.7
"""How bright the grey image below a heatmap is."""


@dataclass(frozen=True)
class Drawn:
    """One part of the evidence: what is said of it, the units' numbers, and its heat on the image, (h, w), or None."""

    said: Said
    units: list[int]
    heat: Tensor | None


class Plot(Figure):
    """A figure that a notebook shows, whatever the backend is."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def drawn(explanation: Explanation) -> list[Drawn]:
    """The parts of an explanation's evidence, as its sentence names them."""
    said = evidence(list(zip(explanation.names, explanation.products, strict=True)))
    named, found = {each.name for each in said}, list[Drawn]()
    for each in said:
        ours = [place for place, name in enumerate(explanation.names) if (name if name in named else REST) == each.name]
        heat = None if explanation.maps is None else explanation.maps[ours].sum(dim=0)
        found.append(Drawn(each, [explanation.units[place] for place in ours], heat))
    return found


def html(explanations: Sequence[Explanation], more: int = 0) -> str:
    """Decisions as HTML that needs nothing else; `more` says how many are left out."""
    return parts.render_decisions([_decision(each) for each in explanations], max(more, 0))


def figure(explanations: Sequence[Explanation]) -> Figure:
    """Decisions as a figure, one below the other.

    Raises:
        InputError: there is none.
    """
    if not explanations:
        raise InputError("plot: no explanations; give at least one")
    shown = [drawn(each) for each in explanations]
    columns = 1 + max(map(len, shown), default=0)
    whole = Plot(figsize=(max(1.6 * columns, 6.4), 2.5 * len(explanations)), layout="constrained")
    rows = whole.subfigures(len(explanations), 1, squeeze=False)[:, 0]
    for row, explanation, found in zip(rows, explanations, shown, strict=True):
        said = "\n".join(textwrap.wrap(parts.unbroken(explanation.sentence), max(66, 16 * columns)))
        row.suptitle(said, x=0.01, ha="left", fontsize=9, parse_math=False)
        _row(row, explanation, found, columns)
    return whole


def _row(row: Any, explanation: Explanation, found: list[Drawn], columns: int) -> None:
    grid, picture = row.add_gridspec(1, columns), picture_of(explanation.picture)
    if picture is not None:
        _titled(row.add_subplot(grid[0, 0]), pixels_of(picture), spoken(explanation.class_name))
    if picture is None or any(each.heat is None for each in found):
        if found:
            _bars(row.add_subplot(grid[0, 0 if picture is None else 1 :]), found)
        return
    for column, (each, pixels) in enumerate(zip(found, _heated(picture, found), strict=True), start=1):
        assert pixels is not None
        _titled(row.add_subplot(grid[0, column]), pixels, f"{each.said.name}\n{each.said.text}")


def _titled(axes: Axes, pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels)
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, parse_math=False)


def _bars(axes: Axes, found: list[Drawn]) -> None:
    values = [each.said.value for each in found]
    bars = axes.barh(range(len(found)), values, color=[FOR if value >= 0 else AGAINST for value in values])
    axes.bar_label(bars, [each.said.text for each in found], padding=3, fontsize=8)
    axes.set_yticks(range(len(found)), [each.said.name for each in found], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="both", length=0, labelsize=8)
    axes.set_xlabel("evidence, summed W x", fontsize=8)


def _decision(explanation: Explanation) -> parts.Decision:
    found, picture = drawn(explanation), picture_of(explanation.picture)
    heated = [None] * len(found) if picture is None else _heated(picture, found)
    widest = max((abs(each.said.value) for each in found), default=0.0) or 1.0
    summed = zip(explanation.units, explanation.concepts, explanation.products, strict=True)
    return parts.Decision(
        sentence=explanation.sentence,
        picture=None if picture is None else png(pixels_of(picture)),
        parts=[
            parts.DecisionPart(
                each.said.name, each.said.text, each.said.value / widest, each.units, None if heat is None else png(heat)
            )
            for each, heat in zip(found, heated, strict=True)
        ],
        units=[
            (unit, *(("", None) if concept is None else (concept.label, concept.score)), product)
            for unit, concept, product in summed
        ],
        bias=explanation.bias,
        logit=explanation.logit,
    )


def picture_of(given: Tensor | None) -> Tensor | None:
    """An image as it was given, about `SIDE` pixels wide, floating point (3, H, W); None for what is none."""
    if given is None or given.shape[0] not in (1, 3):
        return None
    pixels = (given.float() if given.is_floating_point() else given.float() / 255).cpu().expand(3, -1, -1)
    scale = SIDE / pixels.shape[2]
    size = (max(1, round(pixels.shape[1] * scale)), SIDE)
    if scale > 1:
        return F.interpolate(pixels[None], size, mode="nearest")[0]
    return F.interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def grey(picture: Tensor) -> Tensor:
    """The picture in grey, on which the colours of heat are clear."""
    return (GREY * picture.mean(dim=0, keepdim=True)).expand(3, -1, -1)


def _heated(picture: Tensor, found: list[Drawn]) -> list[np.ndarray | None]:
    """Each part's heat on the image in grey, on one scale: what weighs little must look like it."""
    dark = grey(picture)
    peak = max((float(each.heat.abs().max()) for each in found if each.heat is not None), default=0.0)
    return [None if each.heat is None else heatmap(dark, each.heat, peak=peak, against=True) for each in found]


def pixels_of(picture: Tensor) -> np.ndarray:
    """A picture as bytes, (H, W, 3)."""
    return (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy()
