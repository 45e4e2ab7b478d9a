"""The paper's Fig. 7 as numbers: a dense model by its units, the dense model by IBD, and a Dynamic-K model by its routes."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.head import Reader
from dynamick.explanation.ibd import STEPS, ConceptBasis, decompose
from dynamick.explanation.instances import Concept, Explanation, class_names, explain

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

WAYS = ("dense units", "dense + IBD", "dynamic")


@dataclass(frozen=True)
class Way:
    """One way to explain one image's predicted class.

    Attributes:
        class_name: the class predicted, by the model of this way.
        names: what the shares are of: units with their concepts, or concepts; by descending absolute share.
        shares: of the sum of W_ci * x_i over all units, the paper's denominator. Empty where that is zero.
        residual: 1 minus their sum; None where the denominator is zero.
    """

    class_name: str
    names: list[str]
    shares: list[float]
    residual: float | None


@dataclass(frozen=True)
class ThreeWays:
    """The three ways of `WAYS` for each image, and how many units the first one is given."""

    images: list[dict[str, Way]]
    units: int

    def residuals(self) -> dict[str, float | None]:
        """The median residual of each way; None where no image has one."""
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
    dense_units: "Dissection | None" = None,
    dynamic_units: "Dissection | None" = None,
    units: int = 100,
    steps: int = STEPS,
    preprocess: str | Callable[[Tensor], Tensor] | None = "model",
    batch_size: int = 64,
) -> ThreeWays:
    """Explain the same images in three ways and see what each leaves over.

    Args:
        dense, dynamic: the two models; each explains its own prediction.
        images, preprocess, batch_size: as in `explain`.
        basis: concept vectors learnt on the dense model's last maps.
        dense_units, dynamic_units: their dissections, for names.
        units: how many units the dense model's explanation may show, those of largest |p|.
        steps: of the decomposition.

    Raises:
        InputError: as `explain`, or a basis of another number of units.
    """
    by_units = explain(dense, images, units=dense_units, preprocess=preprocess, batch_size=batch_size, maps=False)
    routed = explain(dynamic, images, units=dynamic_units, preprocess=preprocess, batch_size=batch_size, maps=False)
    reader = Reader(dense, preprocess)
    names = class_names(dense, reader.head)
    weight_OM = reader.head.effective_weight
    classes = sorted({each.class_index for each in by_units})
    decomposed = {c: decompose(weight_OM[c], basis, steps) for c in classes}
    rows = []
    for start in range(0, len(images), batch_size):
        x_BM = reader.read(images[start : start + batch_size]).x.cpu()
        for x_M, mine, theirs in zip(x_BM, by_units[start:], routed[start:], strict=False):
            c = mine.class_index
            concepts, rest = decomposed[c].contributions(x_M[None])
            total = float(concepts.sum() + rest)
            labels = [basis.names[row] for row in decomposed[c].concepts]
            rows.append(
                {
                    "dense units": _by_units(mine, units),
                    "dense + IBD": _way(names[c], labels, concepts[0].tolist(), total),
                    "dynamic": _by_units(theirs, len(theirs.units)),
                }
            )
    return ThreeWays(rows, units)


def draw(ways: ThreeWays, path: str | Path, images: int = 4, bars: int = 8) -> None:
    """Write the figure: a row of three bar charts an image, the residual in grey. The suffix gives the format.

    Raises:
        InputError: there is no image to draw.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    shown = ways.images[:images]
    if not shown:
        raise InputError("three ways: no image was explained, so there is nothing to draw")
    figure = Figure(figsize=(13, 0.6 + 0.32 * (bars + 3) * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 3, squeeze=False)
    for row, each in zip(axes, shown, strict=True):
        for axis, name in zip(row, WAYS, strict=True):
            way = each[name]
            labels, shares = way.names[:bars], way.shares[:bars]
            values = [*shares, *([] if way.residual is None else [way.residual])]
            colours = ["#0072b2"] * len(shares) + ["#999999"]
            places = range(len(values))
            axis.barh(places, [100 * value for value in values], color=colours[: len(values)])
            axis.set_yticks(places, [*labels, "residual"][: len(values)], fontsize=8, parse_math=False)
            axis.invert_yaxis()
            more = len(way.names) - len(labels)
            title = f"{name}: {way.class_name}" + (f" ({more} more units)" if more > 0 else "")
            axis.set_title(title, fontsize=9, parse_math=False)
            axis.set_xlabel("share of the sum over all units, %", fontsize=8)
    figure.savefig(path, dpi=120)


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
    return f"unit {unit + 1}" if concept is None else f"unit {unit + 1}: {concept.label}"
