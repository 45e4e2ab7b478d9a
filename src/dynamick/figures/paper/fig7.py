"""The paper's Fig. 7 from finished trainings: the units that decide about an image, in dense and Dynamic-K networks."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from dynamick.data.checking import open_concepts
from dynamick.data.images import evenly_spaced
from dynamick.errors import InputError
from dynamick.explanation import Explanation, Reader, explain, pictures
from dynamick.explanation.basis import PENALTY, learn_basis
from dynamick.explanation.instances import explanations_of
from dynamick.explanation.reading import Seen
from dynamick.explanation.threeway import by_concepts
from dynamick.figures.averages import Row, means, median_of, spread, verdict
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page, cells, spreads, table
from dynamick.figures.runs import Run, group_by_model, validation_images
from dynamick.figures.sizes import caption, sizes
from dynamick.figures.trainings import PLACES

FEW = 4
"""The paper: "fewer than 5" units..."""
LEFT = 0.02
"""... leave 2 % of the sum over all units unexplained ..."""
LEFT_BY_IBD = 0.45
"""... and IBD leaves 45 % of the dense network's."""
EXPLAINED = 500
"""The medians are over at most this many validation images, evenly spaced."""
DRAWN_IMAGES, DRAWN_UNITS = 3, 5
"""Images in the figure, and units of each."""


def make(material: Material) -> Page:
    """Its page, from dissected runs, one or more of them dense, one or more Dynamic-K.

    If there are images with label maps (`material.concepts`), IBD is shown for the dense networks.

    Raises:
        InputError: a kind of network is missing, two runs of a model differ in more than their seeds, or as
            `dynamick.explanation.explain`.
    """
    size = sizes(material.runs, material.seen)
    dense, dynamic = [run for run in material.runs if run.head == "dense"], [run for run in material.runs if run.k]
    if not dense or not dynamic:
        raise InputError("reproduce fig7: give one run or more with a dense head, and one or more with a Dynamic-K head")
    data = validation_images(material.runs[0])
    rows = summary([*dense, *dynamic], data, material.concepts)
    images = len(evenly_spaced(len(data), EXPLAINED))
    how = f"Medians over {images} validation images, of the predicted class; means and deviations of those over runs."
    drawing = draw(dense[0], min(dynamic, key=lambda run: abs((run.k or 0) - DRAWN_UNITS)), data)
    caption(drawing, size)
    return Page(rows, verdicts(rows), [size, how], _table(rows), drawing, about={"sizes": size})


def _table(rows: list[Row]) -> str:
    columns = cells("model", "runs") | spreads({"n98": ("units for 98 %", 1)})
    columns |= spreads({"left": (f"the {FEW} largest leave, %", 1)}, factor=100)
    return table(columns | spreads({"ibd": ("IBD leaves, %", 1)}, factor=100, none=""), rows)


def summary(runs: Sequence[Run], data: Any, concepts: Path | None) -> list[Row]:
    """One row a model: medians over images, then means (and deviations, `_std`) over its runs.

    Returns:
        Rows of `model`, `head`, `k`, `depth`, `runs`, `n98` (units until 98 % of the score is reached to stay:
        docs/definitions.md, "Conventions"), `left` (share of the sum over all units that the 4 largest leave over, its size)
        and `ibd` (the same of IBD; None if it was not asked for, and for Dynamic-K). They are None if a run has none:
        all of its scores, or sums, are 0.

    Raises:
        InputError: two runs of a model differ in more than their seeds, or as `dynamick.explanation.explain`.
    """
    groups = group_by_model(runs)
    images, _ = data.take(evenly_spaced(len(data), EXPLAINED))
    rows = []
    for model, own in groups.items():
        first = own[0]
        row: Row = {"model": model, "head": first.head, "k": first.k, "depth": first.depth, "runs": len(own)}
        rows.append(row | means([_numbers(run, images, concepts) for run in own]))
    return rows


def _numbers(run: Run, images: Tensor, concepts: Path | None) -> Row:
    seen = Reader(run.network).see(images, maps=False)
    found = explanations_of(seen, maps=False)
    left = [abs(part) for each in found if (part := each.residual_after(FEW)) is not None]
    counts = [each.n98 for each in found if each.n98 is not None]
    by_ibd = residual_of_ibd(seen, found, concepts) if concepts and run.head == "dense" else None
    return {"n98": median_of(counts), "left": median_of(left), "ibd": by_ibd}


def residual_of_ibd(seen: Seen, explained: Sequence[Explanation], concepts: Path) -> float | None:
    """What IBD leaves of a dense network's scores: the median size of its share; None if all are 0.

    Args:
        seen: what the network read in some images.
        explained: their explanations.
        concepts: the images with label maps, on which the concepts are learnt.
    """
    basis = learn_basis(seen.reader.model, open_concepts(concepts), penalty=PENALTY)
    ways = by_concepts(seen, explained, basis)
    return median_of([abs(each.residual) for each in ways if each.residual is not None])


def verdicts(rows: list[Row]) -> list[str]:
    """The paper's sentences, each with what was found: how much few units leave, and that IBD leaves more than Dynamic-K's."""
    out = []
    for row in rows:
        if row["left"] is None:
            out.append(f"{row['model']}: the sum over all units is 0 for every image of a run: nothing to hold")
            continue
        holds = "" if row["k"] is None else f" (paper, Dynamic-5: {LEFT:.0%}): " + verdict(row["left"] <= LEFT)
        left = spread(row, "left", 1, 100)
        out.append(f"{row['model']}: its {FEW} largest units leave {left} % of the sum over all units{holds}")
    for dense, dynamic in product([row for row in rows if row["ibd"] is not None], [row for row in rows if row["k"]]):
        if dynamic["left"] is not None and dense["depth"] == dynamic["depth"]:
            by_ibd, left = spread(dense, "ibd", 1, 100), spread(dynamic, "left", 1, 100)
            out.append(
                f"{dense['model']}: IBD leaves {by_ibd} %, more than the {FEW} largest units of {dynamic['model']}, {left} % "
                f"(paper: {LEFT_BY_IBD:.0%} and {LEFT:.0%}): {verdict(dense['ibd'] > dynamic['left'])}"
            )
    return out


def draw(dense: Run, dynamic: Run, data: Any) -> Figure:
    """For each of some images that both networks know: its five largest units in one and in the other, as heatmaps.

    Above each are the share W_ci x_i / (sum over all units), the unit and its concept.
    """
    images, _ = data.take(known_by_both(dense, dynamic, data))
    both = [explain(run.network, images, units=run.units) for run in (dense, dynamic)]
    rows = [each for pair in zip(*both, strict=True) for each in pair]
    models = [dense.model, dynamic.model] * len(images)
    titles = [f"{model}\n{_left(each)}" for model, each in zip(models, rows, strict=True)]
    return pictures.draw(rows, images, DRAWN_UNITS, titles, _captions)


def _left(found: Explanation) -> str:
    """The class, and what few units leave of its sum."""
    left = found.residual_after(FEW)
    return found.class_name + ("" if left is None else f"\n{FEW} units leave {100 * abs(left):.1f} %")


def _captions(found: Explanation, place: int) -> list[str]:
    """A unit's share of the sum over all units, its number and its concept."""
    share, concept = found.shares["share_of_all"][place], found.concepts[place]
    amount = "none" if share is None else f"{100 * share:.1f} %"
    return [amount, f"unit {found.units[place]}", "no label" if concept is None else concept.label]


def known_by_both(dense: Run, dynamic: Run, data: Any) -> list[int]:
    """For some classes, evenly spaced, the first image that both networks classify correctly; others if there are none."""
    places = evenly_spaced(len(data), EXPLAINED)
    images, known = data.take(places)
    labels = known.tolist()
    told = [[each.predicted for each in explain(run.network, images, maps=False)] for run in (dense, dynamic)]
    right = [place for place, answers in enumerate(zip(*told, labels, strict=True)) if len(set(answers)) == 1]
    right = right or list(range(len(labels)))
    return [places[right[n * len(right) // min(DRAWN_IMAGES, len(right))]] for n in range(min(DRAWN_IMAGES, len(right)))]


FIGURE = PaperFigure(
    title="Fig. 7: the units that decide about an image",
    make=make,
    needs={PLACES: ("", "-d5a")},
    trained_on=("folder",),
    dissected=True,
    uses_concepts=True,
)
