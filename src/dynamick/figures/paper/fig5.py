"""The paper's Fig. 5: accuracy, sparsity and dissection by K."""

from collections.abc import Mapping, Sequence
from math import isclose

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamick.dissection.plots import draw_best_scores, draw_scores, look
from dynamick.figures import by_model
from dynamick.figures.averages import Row, verdict
from dynamick.figures.curves import draw_curves
from dynamick.figures.dissections import NOISE, SCORE, units_of
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page
from dynamick.figures.runs import Run, first_of_each
from dynamick.figures.trainings import PLACES

BEST = 100
"""How many units (d) shows."""


def make(material: Material) -> Page:
    """Its page, from dissected runs."""
    runs = material.runs
    return by_model.drawn(by_model.page(runs, verdicts, material.seen), draw(runs), scores_shown(runs))


def verdicts(rows: list[Row]) -> list[str]:
    """The accuracy, and for each neighbouring pair from the smallest K to dense its sparsity and its mean score."""
    order = list(dict.fromkeys(row["head"] for row in rows if row["k"] or row["head"] == "dense"))
    out = by_model.accuracy_verdicts(rows)
    for (one, a), (other, b) in by_model.neighbours(rows, order):
        sparser, higher = verdict(a["sparse"] > b["sparse"]), verdict(a["score"] > b["score"])
        out.append(f"{one} sparser than {other}: {a['sparse']:.1f} % against {b['sparse']:.1f} %: {sparser}")
        out.append(f"{one} has higher scores than {other}: {a['score']:.4f} against {b['score']:.4f}: {higher}")
    return out


def draw(runs: Sequence[Run]) -> Figure:
    """(a) top-1 and (b) sparsity against the epoch, (c) mean scores, (d) the best units' scores.

    One run a model, its first. (c) shows all runs: over the training if `scores_over_training` has them, else at the end.
    """
    first = first_of_each(runs)
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    draw_curves(a, first, "top1", "(a) validation top-1, %; the first run of each")
    draw_curves(b, first, "sparse_share", "(b) weights below 1e-3, %; the first run of each", 100)
    if measured := scores_over_training(runs):
        draw_scores(c, measured)
        c.set_xlim(a.get_xlim())
        c.set_title("(c) mean score (IoU) of all units; mean and deviation over runs", fontsize=9)
    else:
        _draw_last_scores(c, runs, first)
    c.set_ylim(0, max(1e-3, 1.1 * c.dataLim.y1))
    draw_best_scores(d, {name: units_of(run) for name, run in first.items()}, BEST)
    d.set_ylim(bottom=0)
    d.set_title(f"(d) scores of the {BEST} best units; the first run of each", fontsize=9)
    d.legend(fontsize="small", frameon=False)
    return figure


def scores_over_training(runs: Sequence[Run]) -> dict[str, dict[float, list[float]]]:
    """For each model its runs' mean scores after each epoch that was measured.

    Empty if a run has none up to its end, if its last ones differ from its dissection (other images, for example), or if a
    model's runs were measured after different epochs.
    """
    found: dict[str, dict[float, list[float]]] = {}
    for name in first_of_each(runs):
        own = [run for run in runs if run.model == name]
        scores = [{row["epoch"]: row[SCORE] for row in run.history if SCORE in row} for run in own]
        if any(each.keys() != scores[0].keys() for each in scores) or not all(map(_ends_as_dissected, own)):
            return {}
        found[name] = {epoch: [each[epoch] for each in scores] for epoch in scores[0]}
    return found


def _ends_as_dissected(run: Run) -> bool:
    last = run.history[-1].get(SCORE)
    return last is not None and isclose(last, units_of(run).scores.mean(), rel_tol=NOISE, abs_tol=1e-6)


def scores_shown(runs: Sequence[Run]) -> str:
    """What (c) shows, for the page."""
    if scores_over_training(runs):
        return "(c) shows the mean scores over training, as in the paper: mean and deviation over runs."
    return "(c) shows the mean scores at the end of training only: not all runs have them over training."


def _draw_last_scores(axes: Axes, runs: Sequence[Run], first: Mapping[str, Run]) -> None:
    for place, name in enumerate(first):
        every = [float(units_of(each).scores.mean()) for each in runs if each.model == name]
        axes.plot([place] * len(every), every, "o", color=look(place)["color"])
    axes.set_xticks(range(len(first)), list(first))
    axes.set_xlim(-0.5, len(first) - 0.5)
    axes.set_title("(c) mean score (IoU) of all units at the end, each run", fontsize=9)


FIGURE = PaperFigure(
    title="Fig. 5: accuracy, sparsity and dissection by K",
    make=make,
    needs={PLACES: ("", "-d1a", "-d5a", "-d25a")},
    trained_on=("folder",),
    dissected=True,
    scored=True,
)
