"""Curves over a training, one for each model."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from dynamick.dissection.plots import look
from dynamick.figures.runs import Run


def draw_curves(axes: Axes, runs: Mapping[str, Run], column: str, title: str, factor: int = 1) -> None:
    """A column of each run's history against the epoch, times a factor."""
    for place, (name, run) in enumerate(runs.items()):
        values = [factor * row[column] for row in run.history]
        axes.plot([row["epoch"] for row in run.history], values, label=name, **look(place))
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=9)
