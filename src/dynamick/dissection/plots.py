"""Figures of dissections: detectors a category, scores over training (Fig. 5c), the best scores of models (Fig. 5d)."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynamick.dissection.result import Dissection

# Okabe and Ito's, which the colour-blind can tell apart. Lines also differ in stroke.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STROKES = ("-", "--", "-.", ":")


def detectors_by_category(dissections: Mapping[str, Dissection]) -> Figure:
    """How many units detect a concept of each category, a group of bars a category and a bar a model."""
    figure, axes = _axes()
    categories = list(dict.fromkeys(name for each in dissections.values() for name in each.columns))
    width = 0.8 / max(len(dissections), 1)
    for place, (name, each) in enumerate(dissections.items()):
        colour = COLOURS[place % len(COLOURS)]
        counts = Counter(np.array(each.categories)[each.detectors].tolist())
        left = np.arange(len(categories)) - 0.4 + width * (place + 0.5)
        axes.bar(left, [counts[category] for category in categories], width, label=name, color=colour, edgecolor="white")
    axes.set_xticks(range(len(categories)), categories)
    axes.set_ylabel("units with a score of 0.04 or more")
    return _finish(figure, axes)


def score_over_training(histories: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """The mean score of all units against the epoch (Fig. 5c): for each model pairs of epoch and mean score."""
    figure, axes = _axes()
    draw_scores(axes, {name: {epoch: [score] for epoch, score in history} for name, history in histories.items()})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("mean score (IoU) of all units")
    return _finish(figure, axes)


def best_scores(dissections: Mapping[str, Dissection], count: int = 100) -> Figure:
    """The scores of the best units, sorted, one line a model (Fig. 5d)."""
    figure, axes = _axes()
    draw_best_scores(axes, dissections, count)
    axes.set_ylabel("score (IoU)")
    return _finish(figure, axes)


def draw_scores(axes: Axes, scores: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    """Mean scores against the epoch, a line for each model; around it the deviation, where it has several runs.

    Args:
        scores: for each model and epoch the mean score of each of its runs.
    """
    for place, (name, by_epoch) in enumerate(scores.items()):
        epochs, means = list(by_epoch), np.array([mean(each) for each in by_epoch.values()])
        axes.plot(epochs, means, marker="o", markersize=4, label=name, **look(place))
        if by_epoch and all(len(each) > 1 for each in by_epoch.values()):
            away = np.array([stdev(each) for each in by_epoch.values()])
            axes.fill_between(epochs, means - away, means + away, color=look(place)["color"], alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")


def draw_best_scores(axes: Axes, dissections: Mapping[str, Dissection], count: int) -> None:
    """The scores of each model's best units, the highest first."""
    for place, (name, each) in enumerate(dissections.items()):
        scores = np.sort(each.scores)[::-1][:count]
        axes.plot(range(1, len(scores) + 1), scores, label=name, **look(place))
    axes.set_xlabel("unit, by score")


def look(place: int) -> dict[str, Any]:
    """A line's colour and stroke, by its place among others."""
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": STROKES[place % len(STROKES)]}


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes) -> Figure:
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


def svg(figure: Figure) -> bytes:
    """A drawing as an SVG file's content. The same drawing gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dynamick"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
