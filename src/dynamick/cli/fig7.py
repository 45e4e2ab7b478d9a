"""The paper's Fig. 7 from finished trainings: which units decide about an image, in a dense and in a Dynamic-K network."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dynamick.cli.reproduce import alike, averaged, caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dynamick.data.labelled import LabelledImages
    from dynamick.explanation import Explanation

FEW = 4
"""The paper: "fewer than 5" units..."""
LEFT = 0.02
"""... leave 2 % of the sum over all units unexplained ..."""
LEFT_BY_IBD = 0.45
"""... and IBD leaves 45 % of the dense network's."""
EXPLAINED = 500
"""At most so many validation images, evenly spaced, give the medians."""
DRAWN, SHOWN = 3, 5
"""Images in the figure, and units of each."""

Run = dict[str, Any]
Row = dict[str, Any]


def fig7(runs: list[Run], size: str, out: Path, concepts: Path | None = None, failed: Sequence[str] = ()) -> str:
    """Write fig7.md, fig7.json and fig7.svg, and return the page.

    Args:
        runs: as `dynamick.cli.reproduce.read_run`, with `units`, their dissections; one or more of them dense, one or more
            Dynamic-K.
        size: at which size they were made, in words.
        out: a folder; made when there is something to write.
        concepts: images with label maps; IBD is then held against the dense networks.
        failed: a line for each training that failed.

    Raises:
        InputError: a kind of network is missing, two runs of a model differ in more than their seeds, or as
            `dynamick.explanation.explain`.
    """
    from dynamick.data.images import evenly_spaced
    from dynamick.data.recipe import DataRecipe, open_images
    from dynamick.errors import InputError
    from dynamick.files import write_atomically, write_json

    dense, dynamic = [run for run in runs if run["head"] == "dense"], [run for run in runs if run["k"]]
    if not dense or not dynamic:
        raise InputError("reproduce fig7: give one run or more with a dense head, and one or more with a Dynamic-K head")
    alike([*dense, *dynamic])
    data: Any = open_images(DataRecipe(**runs[0]["recipe"]["data"]), "val")
    rows = summary([*dense, *dynamic], data, concepts)
    said = [*verdicts(rows), *failed]
    page = as_markdown(rows, said, size, len(evenly_spaced(len(data), EXPLAINED)))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "fig7.json", {"rows": rows, "verdicts": said, "sizes": size})
    figure = draw(dense[0], min(dynamic, key=lambda run: abs(run["k"] - SHOWN)), data)
    caption(figure, size)
    figure.savefig(out / "fig7.svg")
    # The page goes last: where it is, all is there.
    write_atomically(out / "fig7.md", page.encode())
    return page


def summary(runs: list[Run], data: "LabelledImages", concepts: Path | None) -> list[Row]:
    """One row a model: medians over images, then means (and deviations, `_std`) over its runs.

    Returns:
        Rows of `model`, `head`, `k`, `runs`, `n98` (units for 98 % of the score: docs/definitions.md, "Conventions"), `left`
        (share of the sum over all units that the 4 largest leave over, its size) and `ibd` (the same of IBD; None where it
        was not asked for, and for Dynamic-K). They are None where a run has none: all of its scores, or sums, are 0.
    """
    from dynamick.data.images import evenly_spaced
    from dynamick.explanation import explain

    images, _ = data.take(evenly_spaced(len(data), EXPLAINED))
    groups: dict[str, list[dict[str, float | None]]] = {}
    for run in runs:
        found = explain(run["network"], images, maps=False)
        left = [abs(part) for each in found if (part := each.residual_after(FEW)) is not None]
        by_ibd = residual_of_ibd(run, images, concepts) if concepts and run["head"] == "dense" else None
        counts = [each.n98 for each in found if each.n98 is not None]
        groups.setdefault(run["model"], []).append({"n98": _median(counts), "left": _median(left), "ibd": by_ibd})
    rows = []
    for model, figures in groups.items():
        run = next(run for run in runs if run["model"] == model)
        row: Row = {"model": model, "head": run["head"], "k": run["k"], "depth": run["depth"], "runs": len(figures)}
        for name in figures[0]:
            row |= averaged(name, [each[name] for each in figures])
        rows.append(row)
    return rows


def residual_of_ibd(run: Run, images: Any, concepts: Path) -> float | None:
    """What IBD leaves of a dense network's scores for its predictions: the median size of its share; None where all are 0."""
    from dynamick.data.checking import open_concepts
    from dynamick.explanation import Reader, decompose
    from dynamick.explanation.basis import PENALTY, learn_basis

    basis = learn_basis(run["network"], open_concepts(concepts), penalty=PENALTY)
    reader = Reader(run["network"])
    weight, left = reader.head.effective_weight, []
    for batch in images.split(64):
        reading = reader.read(batch)
        for x, c in zip(reading.x, reading.logits.argmax(1).tolist(), strict=True):
            parts, rest = decompose(weight[c], basis).contributions(x[None])
            if total := float(parts.sum() + rest):
                left.append(abs(float(rest) / total))
    return _median(left)


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None


def verdicts(rows: list[Row]) -> list[str]:
    """The paper's sentences, each with what was found: how much few units leave, and that IBD leaves more than Dynamic-K's."""
    out = []
    for row in rows:
        if row["left"] is None:
            out.append(f"{row['model']}: the sum over all units is 0 for every image of a run: nothing to hold")
            continue
        holds = "" if row["k"] is None else f" (paper, Dynamic-5: {LEFT:.0%}): " + ("holds" if row["left"] <= LEFT else "fails")
        left = _spread(row, "left", 100, 1)
        out.append(f"{row['model']}: its {FEW} largest units leave {left} % of the sum over all units{holds}")
    for dense, dynamic in product([row for row in rows if row["ibd"] is not None], [row for row in rows if row["k"]]):
        if dynamic["left"] is not None and dense["depth"] == dynamic["depth"]:
            by_ibd, left = _spread(dense, "ibd", 100, 1), _spread(dynamic, "left", 100, 1)
            out.append(
                f"{dense['model']}: IBD leaves {by_ibd} %, more than the {FEW} largest units of {dynamic['model']}, {left} % "
                f"(paper: {LEFT_BY_IBD:.0%} and {LEFT:.0%}): {'holds' if dense['ibd'] > dynamic['left'] else 'fails'}"
            )
    return out


def as_markdown(rows: list[Row], said: list[str], size: str, images: int) -> str:
    """The page."""
    lines = ["# Fig. 7: the units that decide about an image", "", size, ""]
    lines += [f"Medians over {images} validation images, of the predicted class; means and deviations of those over runs."]
    lines += ["", f"| model | runs | units for 98 % | the {FEW} largest leave, % | IBD leaves, % |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [_spread(row, "n98", 1, 1), _spread(row, "left", 100, 1), _spread(row, "ibd", 100, 1)]
        lines.append(f"| {row['model']} | {row['runs']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {each}" for each in said), "", "![fig7](fig7.svg)", ""])


def draw(dense: Run, dynamic: Run, data: "LabelledImages") -> "Figure":
    """For each of some images that both networks know: its five largest units in one and in the other, as heatmaps.

    Above each are the share W_ci x_i / (sum over all units), the unit (from 1 up) and its concept.
    """
    from matplotlib.figure import Figure

    from dynamick.explanation import explain

    places = known_by_both(dense, dynamic, data)
    figure = Figure(figsize=(1.75 * (SHOWN + 1), 2.35 * 2 * len(places)), layout="constrained")
    grid = figure.subplots(2 * len(places), SHOWN + 1, squeeze=False)
    images, _ = data.take(places)
    for row, image in enumerate(images):
        for which, run in enumerate((dense, dynamic)):
            (found,) = explain(run["network"], image[None], units=run["units"])
            _strip(grid[2 * row + which], found, image, run["model"])
    return figure


def known_by_both(dense: Run, dynamic: Run, data: "LabelledImages") -> list[int]:
    """The first image of each of some classes, evenly spaced, that both networks tell right; others where there are none."""
    from dynamick.data.images import evenly_spaced
    from dynamick.explanation import explain

    places = evenly_spaced(len(data), EXPLAINED)
    images, known = data.take(places)
    labels = known.tolist()
    told = [[each.predicted for each in explain(run["network"], images, maps=False)] for run in (dense, dynamic)]
    right = [place for place, answers in enumerate(zip(*told, labels, strict=True)) if len(set(answers)) == 1]
    right = right or list(range(len(labels)))
    return [places[right[n * len(right) // min(DRAWN, len(right))]] for n in range(min(DRAWN, len(right)))]


def _strip(axes: "list[Axes]", found: "Explanation", image: Any, model: str) -> None:
    from dynamick.explanation import heatmap

    for each in axes:
        each.set_axis_off()
    left = found.residual_after(FEW)
    rest = "" if left is None else f"\n{FEW} units leave {100 * abs(left):.1f} %"
    axes[0].imshow(image.permute(1, 2, 0).numpy())
    axes[0].set_title(f"{model}\n{found.class_name}{rest}", fontsize=8, parse_math=False)
    maps = found.maps
    places = found.largest(SHOWN)
    for panel, place in zip(axes[1:], places, strict=False):
        # One scale a row: a unit of little weight must look like one.
        peak = None if maps is None else max(float(maps[each].max()) for each in places)
        panel.imshow(image.permute(1, 2, 0).numpy() if maps is None else heatmap(image, maps[place], peak=peak))
        share, concept = found.shares["share_of_all"][place], found.concepts[place]
        label = "no label" if concept is None else concept.label
        amount = "none" if share is None else f"{100 * share:.1f} %"
        panel.set_title(f"{amount}\nunit {found.units[place] + 1}\n{label}", fontsize=8, parse_math=False)


def _spread(row: Row, name: str, factor: float, digits: int) -> str:
    if row[name] is None:
        return "" if name == "ibd" else "none"
    deviation = row[f"{name}_std"]
    return f"{factor * row[name]:.{digits}f}" + ("" if deviation is None else f" ± {factor * deviation:.{digits}f}")
