"""The paper's Fig. 7 as numbers: a dense model by its units, the dense model by IBD, and a Dynamic-K model by its routes."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor, nn

from dynamick.dissection import Dissection
from dynamick.errors import InputError
from dynamick.explanation.explained import Concept, Explanation
from dynamick.explanation.ibd import STEPS, ConceptBasis, decompose
from dynamick.explanation.instances import explain, explanations_of
from dynamick.explanation.reading import Preprocess, Reader, Seen
from dynamick.files import write_by

WAYS = ("dense units", "dense + IBD", "dynamic")
DRAWN = 4
"""How many images are in the figure of `draw_some`."""


@dataclass(frozen=True)
class Way:
    """One way to explain one image's predicted class.

    Attributes:
        class_name: the class predicted, by the model of this way.
        names: of the shares: units with their concepts, or concepts; by descending absolute share.
        shares: of the sum of W_ci * x_i over all units, the paper's denominator. Empty if that is zero.
        residual: 1 minus their sum; None if the denominator is zero.
    """

    class_name: str
    names: list[str]
    shares: list[float]
    residual: float | None


@dataclass(frozen=True)
class ThreeWays:
    """The three ways of `WAYS` for each image, and how many units the first one is given.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> scenes.write_broden("scenes")
    >>> basis = dk.explanation.learn_basis(model, dk.data.Broden("scenes"), minimum=1)
    >>> dense = dk.models.create("res8", 10, stem="compact", width=8)
    >>> ways = dk.explanation.three_ways(dense, model, scenes.images[:2], basis)
    >>> len(ways.images), ways.units
    (2, 100)
    """

    images: list[dict[str, Way]]
    units: int

    def residuals(self) -> dict[str, float | None]:
        """The median residual of each way; None if no image has one."""
        result: dict[str, float | None] = {}
        for name in WAYS:
            values = [ways[name].residual for ways in self.images]
            known = [value for value in values if value is not None]
            result[name] = statistics.median(known) if known else None
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "median_residual": self.residuals()}


def three_ways(
    dense: nn.Module,
    dynamic: nn.Module,
    images: Tensor,
    basis: ConceptBasis,
    dense_units: Dissection | None = None,
    dynamic_units: Dissection | None = None,
    units: int = 100,
    steps: int = STEPS,
    preprocess: Preprocess = "model",
    batch_size: int = 64,
) -> ThreeWays:
    """Explain the same images in three ways, and what each leaves unexplained.

    Args:
        dense, dynamic: the two models; each explains its own prediction.
        images, preprocess, batch_size: as in `explain`.
        basis: concept vectors learnt on the dense model's last maps.
        dense_units, dynamic_units: their dissections, for names.
        units: how many units the dense model's explanation may show, those of largest |p|.
        steps: of the decomposition.

    Raises:
        InputError: as `explain`, or a basis of another number of units.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> scenes.write_broden("scenes")
    >>> basis = dk.explanation.learn_basis(model, dk.data.Broden("scenes"), minimum=1)
    >>> dense = dk.models.create("res8", 10, stem="compact", width=8)
    >>> len(dk.explanation.three_ways(dense, model, scenes.images[:2], basis, units=5).images[0])
    3
    """
    seen = Reader(dense, preprocess).see(images, batch_size, maps=False)
    routed = explain(dynamic, images, units=dynamic_units, preprocess=preprocess, batch_size=batch_size, maps=False)
    return three_ways_of(seen, explanations_of(seen, units=dense_units, maps=False), routed, basis, units, steps)


def three_ways_of(
    seen: Seen,
    by_units: Sequence[Explanation],
    routed: Sequence[Explanation],
    basis: ConceptBasis,
    units: int = 100,
    steps: int = STEPS,
) -> ThreeWays:
    """`three_ways` for images that both models were shown already.

    Args:
        seen: what the dense model read in them.
        by_units, routed: both models' explanations of their predictions, one an image.
        basis, units, steps: as in `three_ways`.

    Raises:
        InputError: a basis of another number of units.
    """
    shown = zip(by_units, by_concepts(seen, by_units, basis, steps), routed, strict=True)
    return ThreeWays([dict(zip(WAYS, _ways(*each, units), strict=True)) for each in shown], units)


def _ways(mine: Explanation, concepts: Way, theirs: Explanation, units: int) -> tuple[Way, Way, Way]:
    return _by_units(mine, units), concepts, _by_units(theirs, len(theirs.units))


def by_concepts(seen: Seen, explanations: Sequence[Explanation], basis: ConceptBasis, steps: int = STEPS) -> list[Way]:
    """A model's scores by the concepts of IBD: one way an image, of the class that is explained.

    Args:
        seen: what the model read in the images.
        explanations: one an image.
        basis: concept vectors learnt on the model's last maps.
        steps: of the decomposition.

    Raises:
        InputError: a basis of another number of units.
    """
    weight_OM = seen.reader.head.effective_weight
    decomposed = {c: decompose(weight_OM[c], basis, steps) for c in sorted({each.class_index for each in explanations})}
    x_NM = torch.cat([reading.x.cpu() for reading in seen.batches])
    ways = []
    for x_M, each in zip(x_NM, explanations, strict=True):
        parts = decomposed[each.class_index]
        concepts, rest = parts.contributions(x_M[None])
        labels, total = [basis.names[row] for row in parts.concepts], float(concepts.sum() + rest)
        ways.append(_way(each.class_name, labels, concepts[0].tolist(), total))
    return ways


def check_figure(path: Path) -> None:
    """Raise InputError unless matplotlib writes figures of this suffix."""
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InputError(f"{path}: a figure's name must end in one of .{', .'.join(sorted(known))}")


def draw_some(ways: ThreeWays, images: Tensor, path: Path) -> None:
    """Write the figure of a few of the images, spread evenly: from folders they come class by class.

    Raises:
        OSError: the file cannot be written.
    """
    places = [n * len(images) // DRAWN for n in range(DRAWN)] if len(images) > DRAWN else list(range(len(images)))
    draw(replace(ways, images=[ways.images[place] for place in places]), path, images[places])


def table(ways: ThreeWays) -> str:
    """The median residual of each way."""
    residuals = ways.residuals()
    # Adding 0.0 makes a rounded -0.0 a plain zero.
    cells = ["none" if (left := residuals[name]) is None else f"{round(left, 3) + 0.0:.1%}" for name in WAYS]
    rows = [f"{name:14} {cell:>9}" for name, cell in zip(WAYS, cells, strict=True)]
    return "\n".join([f"{'way':14} {'residual':>9}  (median over {len(ways.images)} images, of the sum over all units)", *rows])


def draw(ways: ThreeWays, path: str | Path, pictures: Tensor | None = None, images: int = 4, bars: int = 8) -> None:
    """Write the figure: a row of three bar charts an image on one scale, the residual in grey. The suffix gives the format.

    Args:
        pictures: the images explained, uint8 (B, 3, H, W) or floating point in 0..1; they stand at the left.
        images: rows at most.
        bars: units or concepts of a chart at most. One more bar holds all the others.

    Raises:
        InputError: there is no image to draw.
        OSError: the file cannot be written.
    """
    shown = ways.images[:images]
    if not shown:
        raise InputError("three ways: no image was explained, so there is nothing to draw")
    figure = Figure(figsize=(13, 0.5 + 0.24 * (bars + 5) * len(shown)), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
    first = 0 if pictures is None else 1
    ratios = [0.55] * first + [1.0, 1.0, 1.0]
    axes = figure.subplots(len(shown), len(ratios), squeeze=False, gridspec_kw={"width_ratios": ratios})
    for number, (row, each) in enumerate(zip(axes, shown, strict=True)):
        if pictures is not None:
            row[0].imshow(pictures[number].permute(1, 2, 0).numpy())
            row[0].set_axis_off()
        charts = row[first:]
        for axis, name in zip(charts, WAYS, strict=True):
            _chart(axis, f"{name}: {each[name].class_name}", _rows(each[name], bars, "concepts" if "IBD" in name else "units"))
        low, high = min(axis.get_xlim()[0] for axis in charts), max(axis.get_xlim()[1] for axis in charts)
        for axis in charts:
            # One scale a row, with room for the figures beside the bars.
            axis.set_xlim(low - (0.2 * (high - low) if low < 0 else 0), high + 0.16 * (high - low))
    figure.supxlabel("share of the sum of W x over all units, %", fontsize=9)
    write_by(Path(path), partial(figure.savefig, format=Path(path).suffix[1:].lower(), dpi=120))


def _rows(way: Way, bars: int, what: str) -> list[tuple[str, float, str]]:
    """Names, shares and colours of a chart's bars. Everything that is not shown is one bar, so that they sum to 1."""
    rows = [(name, share, "#0072b2") for name, share in zip(way.names[:bars], way.shares[:bars], strict=True)]
    if len(way.shares) > bars:
        rest = way.shares[bars:]
        rows.append((f"{len(rest)} more {what}", sum(rest), "#8fc4e4"))
    return rows if way.residual is None else [*rows, ("residual", way.residual, "#999999")]


def _chart(axis: Axes, title: str, rows: list[tuple[str, float, str]]) -> None:
    # Adding 0.0 makes a rounded -0.0 a plain zero.
    values = [round(100 * share, 1) + 0.0 for _, share, _ in rows]
    bars = axis.barh(range(len(rows)), values, color=[colour for *_, colour in rows])
    texts = [f"{value:.1f}".replace("-", "\N{MINUS SIGN}") for value in values]
    axis.bar_label(bars, texts, padding=3, fontsize=7)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8, parse_math=False)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_title(title if rows else f"{title} (the sum is zero: no shares)", fontsize=9, loc="left", parse_math=False)


def _by_units(explanation: Explanation, n: int) -> Way:
    places = explanation.largest(n)
    names = [_name(explanation.units[place], explanation.concepts[place]) for place in places]
    shares = [explanation.shares["share_of_all"][place] for place in places]
    known = [share for share in shares if share is not None]
    return Way(explanation.class_name, names if known else [], known, explanation.residual_after(n))


def _way(class_name: str, names: list[str], values: list[float], total: float) -> Way:
    if total == 0:
        return Way(class_name, [], [], None)
    order = sorted(range(len(values)), key=lambda place: -abs(values[place]))
    shares = [values[place] / total for place in order]
    return Way(class_name, [names[place] for place in order], shares, 1 - sum(shares))


def _name(unit: int, concept: Concept | None) -> str:
    return f"unit {unit}" if concept is None else f"unit {unit}: {concept.label}"
