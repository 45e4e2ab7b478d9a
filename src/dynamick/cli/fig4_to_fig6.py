"""The drawings of the paper's Figs. 4 to 6, from finished trainings."""

from math import isclose
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from dynamick.cli.reproduce import CLASSES, CONCEPTS, alike, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SCORE = "dissection/mean_score"
"""In a training's history, as `dynamick.training.DissectEvery` logs it."""
NOISE = 0.01
"""By such a part a training's last measurement may differ from the dissection of its file, which another device may make."""
BEST = 100
"""Fig. 5d shows so many units."""
DRAWN_CLASSES, DRAWN_UNITS, TOP_IMAGES = 4, 3, 3
"""Fig. 6 shows so many classes, so many units of each, and so many top images of a unit."""
PICTURE, GAP = 38, 4
"""Points: a top image's side, and what lies between two."""

Run = dict[str, Any]


def draw_fig4(runs: list[Run]) -> "Figure":
    """Fig. 4: (a) top-1 against the epoch, (b) the head's weights as an image; one run a model, its first."""
    from matplotlib.figure import Figure

    first = _first(runs)
    figure = Figure(figsize=(9, 4 + 0.6 * len(first)), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.4, 0.6 * len(first) + 0.3])[:, 0]
    axes = top.subplots()
    _curves(axes, first, "top1", "(a) validation top-1, %; the first run of each")
    axes.legend(fontsize="small", frameon=False)
    for panel, (name, run) in zip(bottom.subplots(len(first), 1, squeeze=False)[:, 0], first.items(), strict=True):
        weight = run["network"].get_parameter("fc.weight").detach()
        panel.imshow(weight.abs().clamp(max=0.5).numpy(), aspect="auto", cmap="cividis")
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
        panel.set_xticks([])
        panel.set_yticks([])
    bottom.suptitle("(b) |w| of the first run's head, classes by units; dark: 0, bright: 0.5 and more", fontsize=9)
    return figure


def draw_fig5(runs: list[Run]) -> "Figure":
    """Fig. 5: (a) top-1 and (b) sparsity against the epoch, (c) mean scores, (d) the best units' scores.

    One run a model, its first; (c) shows all, over training where `scores_over_training` has them, else at the end.
    """
    import numpy as np
    from matplotlib.figure import Figure

    first = _first(runs)
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    _curves(a, first, "top1", "(a) validation top-1, %; the first run of each")
    _curves(b, first, "sparse_share", "(b) weights below 1e-3, %; the first run of each", 100)
    if measured := scores_over_training(runs):
        _draw_scores(c, measured)
        c.set_xlim(a.get_xlim())
    else:
        _draw_last_scores(c, runs, first)
    c.set_ylim(0, max(1e-3, 1.1 * c.dataLim.y1))
    for place, (name, run) in enumerate(first.items()):
        best = np.sort(run["units"].scores)[::-1][:BEST]
        d.plot(range(1, len(best) + 1), best, label=name, **_look(place))
    d.set_xlabel("unit, by score")
    d.set_ylim(bottom=0)
    d.set_title(f"(d) scores of the {BEST} best units; the first run of each", fontsize=9)
    d.legend(fontsize="small", frameon=False)
    return figure


def scores_over_training(runs: list[Run]) -> dict[str, dict[float, list[float]]]:
    """For each model its runs' mean scores after each epoch that was measured.

    Nothing where a run has none to its end, or others there than its dissection says (of other images, say), or where a
    model's runs were measured after different epochs.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for name in _first(runs):
        own = [run for run in runs if run["model"] == name]
        scores = [{row["epoch"]: row[SCORE] for row in run["history"] if SCORE in row} for run in own]
        if any(each.keys() != scores[0].keys() for each in scores) or not all(map(_ends_as_dissected, own)):
            return {}
        found[name] = {epoch: [each[epoch] for each in scores] for epoch in scores[0]}
    return found


def _ends_as_dissected(run: Run) -> bool:
    last = run["history"][-1].get(SCORE)
    return last is not None and isclose(last, run["units"].scores.mean(), rel_tol=NOISE, abs_tol=1e-6)


def scores_shown(runs: list[Run]) -> str:
    """What Fig. 5c shows, for its page."""
    if scores_over_training(runs):
        return "(c) shows the mean scores over training, as in the paper: mean and deviation over runs."
    return "(c) shows the mean scores at the end of training only: not all runs have them over training."


def _draw_scores(axes: "Axes", measured: dict[str, dict[float, list[float]]]) -> None:
    import numpy as np

    for place, scores in enumerate(measured.values()):
        epochs, means = list(scores), np.array([mean(each) for each in scores.values()])
        axes.plot(epochs, means, marker="o", markersize=4, **_look(place))
        if all(len(each) > 1 for each in scores.values()):
            deviations = [stdev(each) for each in scores.values()]
            axes.fill_between(
                epochs, means - deviations, means + deviations, color=_look(place)["color"], alpha=0.2, linewidth=0
            )
    axes.set_xlabel("epoch")
    axes.set_title("(c) mean score (IoU) of all units; mean and deviation over runs", fontsize=9)


def _draw_last_scores(axes: "Axes", runs: list[Run], first: dict[str, Run]) -> None:
    for place, name in enumerate(first):
        every = [float(each["units"].scores.mean()) for each in runs if each["model"] == name]
        axes.plot([place] * len(every), every, "o", color=_look(place)["color"])
    axes.set_xticks(range(len(first)), list(first))
    axes.set_xlim(-0.5, len(first) - 0.5)
    axes.set_title("(c) mean score (IoU) of all units at the end, each run", fontsize=9)


def draw_fig6(runs: list[Run]) -> "Figure":
    """Fig. 6: (a) some classes and their heaviest units, (b) the claim, that nearly all classes are made up by few concepts.

    (a) is of the run whose K is nearest 5, with pictures where `add_pictures` found them; (b) has a line a model, all its runs.
    """
    from matplotlib.figure import Figure

    from dynamick.explanation import composition, share_covered

    run = _nearest_5(runs)
    rows = len(set().union(*_heaviest(run).values())) if "pictures" in run else 0
    # Pictures are stored in an SVG as finely as the figure's dots.
    figure = Figure(figsize=(12, max(4.8, 1.2 + rows * (PICTURE + 2 * GAP) / 72)), dpi=120, layout="constrained")
    connections, axes = figure.subplots(1, 2, width_ratios=[1.3, 1])
    _draw_connections(connections, run)
    for place, name in enumerate(_first(runs)):
        made = [composition(each["network"], each["units"]) for each in runs if each["model"] == name]
        counts = range(1, 21)
        axes.plot(counts, [mean(100 * share_covered(each, n) for each in made) for n in counts], label=name, **_look(place))
    axes.plot([CONCEPTS], [CLASSES], "k*", markersize=10, linestyle="none", label="paper, Dynamic-5")
    axes.set(xlabel="at most so many concepts", ylabel="classes made up by them, %", ylim=(0, 103), xticks=range(0, 21, 5))
    axes.set_title("(b) how many concepts make up a class", fontsize=9)
    if rows:
        axes.set(box_aspect=1, anchor="N")
    axes.legend(fontsize="small", frameon=False)
    return figure


def add_pictures(runs: list[Run], dissections: Path, concepts: Path | None) -> str:
    """Put the units' top images (`pictures`) into the run that Fig. 6a shows; returns what the page says of them.

    Args:
        dissections: RUN/dissection.json, beside the tally, says which images they are.
        concepts: the images that were dissected.

    Raises:
        InputError: these are others, or the dissection is of another layer than the head reads.
    """
    from dynamick.data.checking import open_concepts
    from dynamick.explanation.dissected import read_units

    run = _nearest_5(runs)
    folder = dissections / run["folder"].resolve().name
    units: Any = read_units(folder / "tally.csv")
    noted = f"{folder / 'dissection.json'}, which `dynamick dissect` writes beside the tally"
    lacking = [] if units.top_images.size else [noted]
    lacking += [] if concepts else ["--concepts DIR, the images that were dissected"]
    if concepts is None or lacking:
        return f"(a) leaves out the units' top images, which the paper shows; they need {' and '.join(lacking)}."
    run["pictures"] = _pictures(run, units, open_concepts(concepts), concepts)
    return f"(a) shows each unit's {TOP_IMAGES} top images, dimmed where it is not active, as in the paper."


def _pictures(run: Run, units: Any, data: Any, concepts: Path) -> dict[int, "list[NDArray[Any]]"]:
    """For each unit drawn its top images (H, W, 3), dimmed outside its region.

    Raises:
        InputError: the unit is not as active in them as its dissection says, or that is of another layer.
    """
    from dynamick.data.concepts import image_of
    from dynamick.dissection.gallery import examples, overlay
    from dynamick.errors import InputError
    from dynamick.explanation import Reader
    from dynamick.explanation.instances import check_units

    drawn = sorted(set().union(*_heaviest(run).values()))
    other = f"{concepts}: other images than {run['folder']} was dissected on, or in another size; give those, or no --concepts"
    if sorted(data.labels) != sorted(units.concepts) or units.top_images.max() >= len(data):
        raise InputError(other)
    reader = Reader(run["network"])
    check_units(units, reader.head, reader.maps(image_of(data, 0)[1][None]))
    found = examples(run["network"], data, units, drawn, TOP_IMAGES)
    for each in found:
        said = units.top_values[each.unit].tolist()
        if not all(isclose(*pair, rel_tol=NOISE, abs_tol=1e-6) for pair in zip(each.peaks, said, strict=False)):
            raise InputError(other)
    pictures = [map(overlay, each.images, each.masks) for each in found]
    return {u: [each.permute(1, 2, 0).numpy() for each in own] for u, own in zip(drawn, pictures, strict=True)}


def _nearest_5(runs: list[Run]) -> Run:
    """The run that Fig. 6a shows, as the paper shows Res18-d5a."""
    return min(runs, key=lambda run: (run["k"] is None, abs((run["k"] or 0) - CONCEPTS)))


def _heaviest(run: Run) -> dict[int, list[int]]:
    """The units of the largest positive weights of each class drawn."""
    from dynamick.data.images import evenly_spaced

    weight = run["network"].get_parameter("fc.weight").detach()
    largest = {c: weight[c].argsort(descending=True)[:DRAWN_UNITS].tolist() for c in evenly_spaced(len(weight), DRAWN_CLASSES)}
    return {c: [m for m in units if weight[c, m] > 0] for c, units in largest.items()}


def _draw_connections(axes: "Axes", run: Run) -> None:
    """Units and classes, joined by the largest positive weights of each class: the wider a line, the larger its weight."""
    from dynamick.dissection.plots import COLOURS

    weight, heaviest = run["network"].get_parameter("fc.weight").detach().clamp(min=0), _heaviest(run)
    order = list(dict.fromkeys(m for units in heaviest.values() for m in units))
    height = {m: 1 - (place + 0.5) / len(order) for place, m in enumerate(order)}
    for place, (c, units) in enumerate(heaviest.items()):
        middle = 1 - (place + 0.5) / len(heaviest)
        axes.text(1.02, middle, run["network"].classes[c], va="center", fontsize=9)
        for m in units:
            width = float(8 * weight[c, m] / weight.max())
            axes.plot([0, 1], [height[m], middle], color=COLOURS[place], linewidth=width, alpha=0.8, solid_capstyle="butt")
    for m in order:
        _draw_unit(axes, run, m, height[m])
    axes.set_ylim(0, 1)
    axes.set_axis_off()
    title = f"(a) {run['model']}, the first run: a class's {DRAWN_UNITS} heaviest units; grey: no detector"
    pictured = "\ntheir top images, dimmed where the unit is not active" if "pictures" in run else ""
    axes.set_title(title + pictured, fontsize=9)


def _draw_unit(axes: "Axes", run: Run, unit: int, height: float) -> None:
    """To the left of its lines a unit's top images, if any, and its number (from 1 up, as in the tally), concept and score."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    from dynamick.dissection.result import DETECTOR

    pictures: list[Any] = run.get("pictures", {}).get(unit, [])
    place: dict[str, Any] = {"xy": (0, height), "annotation_clip": False}
    for number, each in enumerate(reversed(pictures)):
        image = OffsetImage(each, zoom=PICTURE / max(each.shape), dpi_cor=True)
        left = -GAP - number * (PICTURE + GAP)
        axes.add_artist(
            AnnotationBbox(
                image, **place, xybox=(left, 0), boxcoords="offset points", box_alignment=(1, 0.5), frameon=False, pad=0
            )
        )
    label, score = run["units"].labels[unit], float(run["units"].scores[unit])
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


def _first(runs: list[Run]) -> dict[str, Run]:
    """The first run of each model, in the order of the table."""
    return {run["model"]: run for run in sorted((own[0] for own in alike(runs).values()), key=rank)}


def _curves(axes: "Axes", first: dict[str, Run], column: str, title: str, factor: int = 1) -> None:
    for place, (name, run) in enumerate(first.items()):
        history = run["history"]
        axes.plot([row["epoch"] for row in history], [factor * row[column] for row in history], label=name, **_look(place))
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=9)


def _look(place: int) -> dict[str, Any]:
    """Colours that the colour-blind tell apart, and strokes beside them."""
    from dynamick.dissection.plots import COLOURS, STROKES

    return {"color": COLOURS[place % len(COLOURS)], "linestyle": STROKES[place % len(STROKES)]}


DRAWINGS = {"fig4": draw_fig4, "fig5": draw_fig5, "fig6": draw_fig6}
