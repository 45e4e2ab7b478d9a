"""The paper's Fig. 6: the concepts that a class is made of."""

from collections.abc import Mapping, Sequence
from math import isclose
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from numpy.typing import NDArray

from dynamick.data.checking import open_concepts
from dynamick.data.images import evenly_spaced
from dynamick.dissection.gallery import examples, overlay
from dynamick.dissection.plots import COLOURS, look
from dynamick.dissection.result import DETECTOR
from dynamick.errors import InputError
from dynamick.explanation import composition, share_covered
from dynamick.explanation.dissected import check_data
from dynamick.figures import by_model
from dynamick.figures.averages import Row, verdict
from dynamick.figures.by_model import CONCEPTS
from dynamick.figures.dissections import NOISE, units_of
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page
from dynamick.figures.runs import Run, first_of_each
from dynamick.figures.trainings import PLACES

CLASSES = 95
"""The paper: at most 5 concepts make up more than this percentage of the classes."""
DRAWN_CLASSES, DRAWN_UNITS, TOP_IMAGES = 4, 3, 3
"""How many classes (a) shows, how many units of each, and how many top images of a unit."""
PICTURE, GAP = 38, 4
"""In points: a top image's side, and the space between two."""

Pictures = Mapping[int, Sequence[NDArray[Any]]]
"""For each unit its top images, uint8 (H, W, 3), dimmed where it is not active."""


def make(material: Material) -> Page:
    """Its page, from dissected runs.

    Raises:
        InputError: as `top_images`.
    """
    runs = material.runs
    page = by_model.page(runs, verdicts, material.seen)
    pictures, note = top_images(nearest_5(runs), material.dissections, material.concepts)
    return by_model.drawn(page, draw(runs, pictures), note)


def verdicts(rows: list[Row]) -> list[str]:
    """Whether at most 5 concepts make up more than 95 % of a Dynamic-K model's classes."""
    return [
        f"{row['model']}: at most {CONCEPTS} concepts make up {row['covered']:.1f} % of the classes (paper, Dynamic-5: "
        f"more than {CLASSES} %): {verdict(row['covered'] > CLASSES)}"
        for row in rows
        if row["k"]
    ]


def draw(runs: Sequence[Run], pictures: Pictures | None = None) -> Figure:
    """(a) some classes and their heaviest units, (b) the claim, that nearly all classes are made up by few concepts.

    (a) is of the run whose K is nearest 5, with pictures if there are some. (b) has a line a model, of all its runs.
    """
    run = nearest_5(runs)
    rows = len(set().union(*_heaviest(run).values())) if pictures is not None else 0
    # Pictures are stored in an SVG as finely as the figure's dots.
    figure = Figure(figsize=(12, max(4.8, 1.2 + rows * (PICTURE + 2 * GAP) / 72)), dpi=120, layout="constrained")
    connections, axes = figure.subplots(1, 2, width_ratios=[1.3, 1])
    _draw_connections(connections, run, pictures)
    _draw_covered(axes, runs)
    if rows:
        axes.set(box_aspect=1, anchor="N")
    return figure


def _draw_covered(axes: Axes, runs: Sequence[Run]) -> None:
    for place, name in enumerate(first_of_each(runs)):
        made = [composition(each.network, units_of(each)) for each in runs if each.model == name]
        counts = range(1, 21)
        axes.plot(counts, [mean(100 * share_covered(each, n) for each in made) for n in counts], label=name, **look(place))
    axes.plot([CONCEPTS], [CLASSES], "k*", markersize=10, linestyle="none", label="paper, Dynamic-5")
    axes.set(xlabel="at most so many concepts", ylabel="classes made up by them, %", ylim=(0, 103), xticks=range(0, 21, 5))
    axes.set_title("(b) how many concepts make up a class", fontsize=9)
    axes.legend(fontsize="small", frameon=False)


def top_images(run: Run, dissections: Path | None, concepts: Path | None) -> tuple[Pictures | None, str]:
    """The top images of the units that (a) shows, None if they cannot be had, and what the page says of them.

    Args:
        run: with a dissection. It says which images they are if a dissection.json was beside its tally.
        dissections: the folder where that would be, for the message.
        concepts: the images that were dissected.

    Raises:
        InputError: these are other images.
    """
    noted = (dissections or Path()) / run.folder.resolve().name / "dissection.json"
    lacking = [] if units_of(run).top_images.size else [f"{noted}, which `dynamick dissect` writes beside the tally"]
    lacking += [] if concepts else ["--concepts DIR, the images that were dissected"]
    if concepts is None or lacking:
        return None, f"(a) leaves out the units' top images, which the paper shows; they need {' and '.join(lacking)}."
    note = f"(a) shows each unit's {TOP_IMAGES} top images, dimmed where it is not active, as in the paper."
    return _pictures(run, open_concepts(concepts), concepts), note


def _pictures(run: Run, data: Any, concepts: Path) -> Pictures:
    """For each unit drawn its top images (H, W, 3), dimmed outside its region.

    Raises:
        InputError: the unit is not as active in them as its dissection says.
    """
    drawn, units = sorted(set().union(*_heaviest(run).values())), units_of(run)
    other = f"{concepts}: other images than {run.folder} was dissected on, or in another size; give those, or no --concepts"
    try:
        check_data(units, data)
    except InputError:
        raise InputError(other) from None
    found = examples(run.network, data, units, drawn, TOP_IMAGES)
    for each in found:
        said = units.top_values[each.index].tolist()
        if not all(isclose(*pair, rel_tol=NOISE, abs_tol=1e-6) for pair in zip(each.peaks, said, strict=False)):
            raise InputError(other)
    pictures = [map(overlay, each.images, each.masks) for each in found]
    return {u: [each.permute(1, 2, 0).numpy() for each in own] for u, own in zip(drawn, pictures, strict=True)}


def nearest_5(runs: Sequence[Run]) -> Run:
    """The run that Fig. 6a shows, as the paper shows Res18-d5a."""
    return min(runs, key=lambda run: (run.k is None, abs((run.k or 0) - CONCEPTS)))


def _heaviest(run: Run) -> dict[int, list[int]]:
    """The units of the largest positive weights of each class drawn."""
    weight = run.network.get_parameter("fc.weight").detach()
    largest = {c: weight[c].argsort(descending=True)[:DRAWN_UNITS].tolist() for c in evenly_spaced(len(weight), DRAWN_CLASSES)}
    return {c: [m for m in units if weight[c, m] > 0] for c, units in largest.items()}


def _draw_connections(axes: Axes, run: Run, pictures: Pictures | None) -> None:
    """Units and classes, joined by the largest positive weights of each class: the wider a line, the larger its weight."""
    weight, heaviest = run.network.get_parameter("fc.weight").detach().clamp(min=0), _heaviest(run)
    order = list(dict.fromkeys(m for units in heaviest.values() for m in units))
    height = {m: 1 - (place + 0.5) / len(order) for place, m in enumerate(order)}
    for place, (c, units) in enumerate(heaviest.items()):
        middle = 1 - (place + 0.5) / len(heaviest)
        axes.text(1.02, middle, run.network.classes[c], va="center", fontsize=9)
        for m in units:
            width = float(8 * weight[c, m] / weight.max())
            axes.plot([0, 1], [height[m], middle], color=COLOURS[place], linewidth=width, alpha=0.8, solid_capstyle="butt")
    for m in order:
        _draw_unit(axes, run, m, height[m], (pictures or {}).get(m, ()))
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    title = f"(a) {run.model}, the first run: a class's {DRAWN_UNITS} heaviest units; grey: no detector"
    pictured = "\ntheir top images, dimmed where the unit is not active" if pictures is not None else ""
    axes.set_title(title + pictured, fontsize=9)


def _draw_unit(axes: Axes, run: Run, unit: int, height: float, pictures: Sequence[NDArray[Any]]) -> None:
    """To the left of its lines a unit's top images, if any, and its number (as in the tally), concept and score."""
    place: dict[str, Any] = {"xy": (0, height), "annotation_clip": False}
    for number, each in enumerate(reversed(pictures)):
        image = OffsetImage(each, zoom=PICTURE / max(each.shape), dpi_cor=True)
        left = -GAP - number * (PICTURE + GAP)
        axes.add_artist(
            AnnotationBbox(
                image, **place, xybox=(left, 0), boxcoords="offset points", box_alignment=(1, 0.5), frameon=False, pad=0
            )
        )
    label, score = units_of(run).labels[unit], float(units_of(run).scores[unit])
    said = f"unit {unit + 1}: " + (f"{label}, IoU {score:.2f}" if score else "no concept")
    axes.annotate(
        said.replace(", IoU", ",\nIoU") if pictures else said,
        **place,
        xytext=(-2 * GAP - len(pictures) * (PICTURE + GAP), 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=8,
        color="black" if score >= DETECTOR else "#777777",
        parse_math=False,
    )


FIGURE = PaperFigure(
    title="Fig. 6: the concepts that a class is made of",
    make=make,
    needs={PLACES: ("", "-d5a")},
    trained_on=("folder",),
    dissected=True,
)
